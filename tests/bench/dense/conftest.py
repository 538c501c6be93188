"""Puts `tests/` on the path, for `golden_tools`, when this folder is run alone."""

import sys
from pathlib import Path

TESTS = str(Path(__file__).parents[2])
if TESTS not in sys.path:
    sys.path.insert(0, TESTS)
