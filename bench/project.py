"""The project whose models are gated: this suite's own, or another that says `[tool.overlock-bench]` in its pyproject.

Importing this imports no torch.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.cli import BadInput
from bench.paths import REPOSITORY

PYPROJECT = "pyproject.toml"
TABLE = "overlock-bench"
LISTS = ("models", "speed-models", "imports", "packages")
TEXTS = ("expected", "results", "source")
MEND = f"see docs/gates.md for what [tool.{TABLE}] may have"


@dataclass(frozen=True, kw_only=True)
class Project:
    """Whose models these are. Paths are whole; what the table leaves out has the suite's own values.

    Args:
        root: the folder of its pyproject.toml, in its git repository.
        models: what `--exact` judges when nothing else is asked for: names or patterns.
        speed_models: what `--speed` judges then.
        imports: modules whose import registers models with timm.
        packages: what `--speed --base` takes from each revision.
        expected: the file of expected figures.
        results: the folder of records and calibrations.
        source: the folder that the packages are in, from the root: `src`, say.
        configured: whether its pyproject.toml has the table.
    """

    root: Path
    models: tuple[str, ...] = ("all",)
    speed_models: tuple[str, ...] = ("overlock_t",)
    imports: tuple[str, ...] = ()
    packages: tuple[str, ...] = ("overlock", "baselines")
    expected: Path
    results: Path
    source: str = ""
    configured: bool = False


def project(start: Path | None = None) -> Project:
    """The project around a folder (the working directory): the nearest one whose pyproject.toml has the table; else the
    checkout that the suite runs from; else, for a suite that is installed, the folder itself.

    Raises:
        BadInput: if the table cannot be read.
    """
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        table = _table(folder / PYPROJECT)
        if table is not None:
            return _of_table(folder, table)
    root = REPOSITORY if (REPOSITORY / PYPROJECT).is_file() else here
    return Project(root=root, expected=root / "results" / "expected.csv", results=root / "results")


def _table(path: Path) -> Mapping[str, Any] | None:
    """The table of a file; None where there is no file, or no table in it."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):  # somebody else's, and no matter of ours
        return None
    if f"tool.{TABLE}" not in text:
        return None
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        tool = tomllib.loads(text).get("tool", {})
    except (ValueError, RecursionError) as error:  # also of numbers of thousands of digits
        raise BadInput(f"{path}: {error}") from error
    table = tool.get(TABLE) if isinstance(tool, dict) else None
    if table is not None and not isinstance(table, dict):
        raise BadInput(f"{path}: tool.{TABLE} is no table: {MEND}")
    return table


def _is_word(value: object) -> bool:
    return isinstance(value, str) and bool(value) and "\0" not in value


def _of_table(root: Path, table: Mapping[str, Any]) -> Project:
    where = f"{root / PYPROJECT}: [tool.{TABLE}]"
    for name, value in table.items():
        if name not in (*LISTS, *TEXTS):
            raise BadInput(f"{where} has {name!r}, and only {', '.join((*LISTS, *TEXTS))} are known: {MEND}")
        words = [value] if name in TEXTS else value
        if not isinstance(words, list) or not words or not all(map(_is_word, words)):
            what = "text" if name in TEXTS else "a list of text"
            raise BadInput(f"{where}: {name} is {value!r}, and should be {what}: {MEND}")
    if not table.get("models"):
        raise BadInput(f"{where}: say which models are gated, models = ['mine_*'], say: {MEND}")
    imports = tuple(table.get("imports", ()))
    return Project(
        root=root,
        models=tuple(table["models"]),
        speed_models=tuple(table.get("speed-models", table["models"])),
        imports=imports,
        packages=tuple(table.get("packages", dict.fromkeys(name.partition(".")[0] for name in imports))),
        expected=root / table.get("expected", "expected.csv"),
        results=root / table.get("results", "results"),
        source=table.get("source", ""),
        configured=True,
    )
