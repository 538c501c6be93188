"""The machine: what it is, what else runs on it, and whether it moved while something was measured."""
