"""Gates: what must not move, and how it is judged. The verb is `python -m bench.gate`."""
