"""A sweep as a file: which command, with which options, over which grid. Imports no torch.

command = "compare"
[options]                      # the same in every cell
metrics = ["throughput", "memory"]
baseline = "convnext_b"
[grid]                         # every combination is a cell
models = ["overlock_*", "moganet_s"]
resolutions = [224, 384]
[executor]                     # what a job gets, in submitit's words
timeout_min = 60
[torchrun]                     # if the command runs in several processes
nproc-per-node = 8
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import itertools
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.cli import BadInput
from bench.cluster.cell import RECORDS, RECORDS_JSON, RUN, WEIGHTS
from bench.files import read_text
from bench.models import find, is_pattern, matching

COMMANDS = ("compare", "top1", "coco", "ade20k", "train_imagenet", "train_coco", "train_ade20k")
"""What a cell may run."""
RESUMES = "compare"
"""The command that keeps every figure as it is known, in a folder of records; others go on by files of their own."""
SHARED = tuple(command for command in COMMANDS if command != RESUMES)
"""What may run in several processes, by torchrun."""
TABLES = ("options", "grid", "executor", "torchrun")
OWN = ("resume", "save", "output", "format")
"""Options that the sweep itself gives."""
MEND = "see docs/cluster.md"
CELL = "{cell}"
"""Stands for the cell's folder in an option's value."""


@dataclass(frozen=True)
class Cell:
    """One job's work: a name that is the same whenever the grid is read, and the words behind the command."""

    name: str
    words: tuple[str, ...]

    def arguments(self, folder: Path) -> list[str]:
        """The command's arguments, with the folder in its places."""
        return [word.replace(CELL, str(folder)) for word in self.words]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A sweep: its command, its cells in order, and what jobs get."""

    command: str
    cells: Sequence[Cell]
    executor: Mapping[str, Any] = field(default_factory=dict)
    torchrun: Mapping[str, Any] = field(default_factory=dict)


def read(path: Path) -> Grid:
    """The sweep of a file.

    Raises:
        BadInput: if it cannot be read, or a cell's options are none of the command's, which says what is wrong.
    """
    data = _toml(path)
    command = data.pop("command", "compare")
    if command not in COMMANDS:
        raise BadInput(f"{path}: command = {command!r}: give one of {', '.join(COMMANDS)}")
    tables: dict[str, dict[str, Any]] = {name: data.pop(name, {}) for name in TABLES}
    if data or not all(isinstance(table, dict) for table in tables.values()):
        raise BadInput(f"{path}: {', '.join(data) or 'a table'} is not known; it has {', '.join(TABLES)}: {MEND}")
    axes = {name: values if isinstance(values, list) else [values] for name, values in tables["grid"].items()}
    if not axes or not all(axes.values()):
        raise BadInput(f"{path}: [grid] has no values to go through: {MEND}")
    for name, value in (*axes.items(), *tables["options"].items()):
        if name != "form" and any(owned.startswith(name) for owned in OWN):  # argparse takes beginnings of names
            raise BadInput(f"{path}: the sweep itself gives --{name}: leave it out")
        if not all(map(_is_word, value if isinstance(value, list) else [value])):
            raise BadInput(f"{path}: {name} = {value!r:.60}: give text, numbers, or lists of them")
    for axis in ("models", "model"):
        if axis in axes:
            axes[axis] = [name for given in axes[axis] for name in _names(given)]
    if tables["torchrun"] and command not in SHARED:
        raise BadInput(f"{path}: bench.{command} runs in one process: leave [torchrun] out")
    cells: dict[tuple[str, ...], Cell] = {}
    for values in itertools.product(*axes.values()):
        cell = _cell(command, dict(zip(axes, values, strict=True)), tables["options"])
        cells.setdefault(cell.words, cell)
    for cell in cells.values():
        check(command, cell.arguments(Path("cell")), f"{path}, cell {cell.name}")
    return Grid(command=command, cells=list(cells.values()), executor=tables["executor"], torchrun=tables["torchrun"])


def _toml(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(read_text(path, "give the sweep's TOML file"))
    except BadInput:
        raise
    except (ValueError, RecursionError) as error:  # also of numbers of thousands of digits
        raise BadInput(f"{path}: {error}: {MEND}") from error


def _names(given: Any) -> Sequence[Any]:
    """The models that one entry of the axis stands for; a list is one cell's."""
    return matching(given) if isinstance(given, str) and is_pattern(given) else [given]


def _cell(command: str, values: Mapping[str, Any], options: Mapping[str, Any]) -> Cell:
    """The cell of these values: every model beside the baseline, where there is one."""
    options = {**options, **values}
    baseline = options.get("baseline")
    if command == RESUMES and baseline is not None:
        models = _words(options.get("models"))
        here = [entry.name if (entry := find(name)) else name for name in models]
        entry = find(str(baseline))
        if (entry.name if entry else baseline) not in here:
            models = [*models, str(baseline)]
        options["models"] = models
    words: list[str] = []
    for name, value in options.items():
        if value is not False:
            words += [f"--{name}", *([] if value is True else _words(value))]
    slug = re.sub(r"[^\w.=-]+", "+", "-".join("+".join(_words(value)) for value in values.values()))[:80]
    digest = hashlib.sha256("\0".join([command, *words]).encode()).hexdigest()[:6]
    return Cell(f"{slug}-{digest}", tuple(words))


def _is_word(value: Any) -> bool:
    """Whether a value can be a word of a command, or several words."""
    if isinstance(value, list):
        return all(not isinstance(word, list) and _is_word(word) for word in value)
    return not isinstance(value, dict) and "\0" not in str(value)


def own(command: str, place: Path) -> list[str]:
    """The options that the sweep itself gives: where a cell keeps its records, or the weights that it trains."""
    if command == RESUMES:
        return [f"--resume={place / RECORDS}"]
    if command.startswith("train_"):
        return [f"--output={place / (RUN if command == 'train_imagenet' else WEIGHTS)}"]
    return ["--format=json", f"--output={place / RECORDS_JSON}"]


def _words(value: Any) -> list[str]:
    return [str(word) for word in (value if isinstance(value, list) else [value])]


def check(command: str, arguments: Sequence[str], where: str) -> None:
    """Have the command's own parser look at a cell's arguments.

    Raises:
        BadInput: with its words.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            parser = importlib.import_module(f"bench.{command}").parser()
            parser.parse_args([*arguments, *own(command, Path("cell"))])
    except SystemExit as ended:
        words = said.getvalue().strip().splitlines() if ended.code else ["it asks for help or a list, and does nothing"]
        raise BadInput(f"{where}: {words[-1]}") from None
