"""The benchmark suite. Every verb is `python -m bench.<verb>`; nothing is imported here, so that `--help` is quick."""
