"""The benchmark suite. A command is `python -m bench.<name>`; nothing is imported here, so that `--help` is quick."""
