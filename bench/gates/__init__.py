"""Gates: what must not move, and how it is judged. The command is `python -m bench.gate`."""
