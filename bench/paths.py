"""Where the suite's data files are: packed into an installed wheel, or in the repository's `results/`."""

from __future__ import annotations

from pathlib import Path

from bench.cli import BadInput

PACKAGE = Path(__file__).resolve().parent
REPOSITORY = PACKAGE.parent


def data_file(name: str) -> Path:
    """Path of a data file such as `published.csv`.

    Raises:
        BadInput: if it is in neither place, naming both.
    """
    candidates = (PACKAGE / "data" / name, REPOSITORY / "results" / name)
    for path in candidates:
        if path.is_file():
            return path
    where = f"{candidates[0].parent} nor {candidates[1].parent}"
    raise BadInput(f"{name} is in neither {where}: restore it from git, or install the suite again")
