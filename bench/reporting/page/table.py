"""The page's tables: what a reader looks for first stands first, and what all rows share stands above, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.metrics import HIGH, METRICS
from bench.reporting.footnotes import dirty
from bench.reporting.rows import Row
from bench.reporting.tables import WORDS, columns, common_base, contradictions, heading, marked

FIRST = ("throughput_ratio", "throughput", "memory", "top1")
"""The metrics that stand first; a published top-1 follows them."""

CONDITIONS = {
    "family": "family",
    "form": "form",
    "device": "device",
    "dtype": "dtype",
    "layout": "layout",
    "compile": "compile",
    "threads": "threads",
    "backend": "ContMix",
    "head": "head",
    "variant": "variant",
}
"""What stands last, each as a column where rows differ in it: field of a row -> heading."""

TASKS = ("classification", "segmentation", "detection")
"""In the order of the page; others follow."""

UP, DOWN = "ascending", "descending"


@dataclass(frozen=True)
class Cell:
    """A cell: its text, what it is sorted by, and how it is marked."""

    text: str
    value: Any
    mark: str = ""  # its classes


@dataclass(frozen=True)
class Column:
    """A column: its heading, whether it holds numbers, and how the first click on its heading sorts."""

    heading: str
    cells: Sequence[Cell]
    number: bool = False
    first: str = UP


@dataclass(frozen=True)
class Table:
    """One table: `key` is its name in the page, `shared` says what holds for all of its rows, and what marks mean."""

    key: str
    title: str
    shared: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    reasons: tuple[str, ...]  # of each row, why figures of it are not valid
    footnotes: tuple[str, ...] = ()  # where published figures contradict each other: who says what

    @property
    def filters(self) -> list[tuple[int, str]]:
        """The columns that a reader can choose among: their places and headings."""
        filtered = ("machine", "size", "batch", *CONDITIONS.values())
        return [(i, column.heading) for i, column in enumerate(self.columns) if column.heading in filtered]


def tables(rows: Sequence[Row]) -> list[Table]:
    """A table for each task, and for its training: the first one is the page's main table."""
    groups: dict[tuple[str, bool], list[Row]] = {}
    for row in sorted(rows, key=lambda row: not row.measured):  # what is only counted comes last
        groups.setdefault((row.task, row.training), []).append(row)
    kinds = sorted(groups, key=lambda kind: (TASKS.index(kind[0]) if kind[0] in TASKS else len(TASKS), kind[1]))
    return [
        table(groups[kind], f"results-{i}" if i else "results", _title(*kind) if i else "Table")
        for i, kind in enumerate(kinds)
    ]


def _title(task: str, training: bool) -> str:
    if not training:
        return task.capitalize()
    return "Training" if task == TASKS[0] else f"{task.capitalize()}, training"


def table(rows: Sequence[Row], key: str = "results", title: str = "Table") -> Table:
    """Rows as a table."""
    made = [_words("model", [row.model for row in rows])]
    machines = {row.machine: row.machine.rpartition("-")[0] for row in rows if row.measured}
    if len(machines) > 1:  # by their names without the hash, where these tell them apart
        short = machines if len(set(machines.values())) == len(machines) else {machine: machine for machine in machines}
        places = [short[row.machine] if row.measured else "" for row in rows]
        made.append(Column("machine", [Cell(place, place, "name") for place in places]))
    made.append(Column("size", [Cell(row.resolution, row.pixels, "number") for row in rows], number=True))
    shown = columns(rows)
    first = [metric for metric in FIRST if metric in shown]
    made += [_metric(rows, metric) for metric in first] + _published(rows, "top1", "top-1 % published")
    if len({row.batch for row in rows} - {None}) > 1:
        made.append(Column("batch", [Cell(str(row.batch or ""), row.batch or "", "number") for row in rows], True))
    for metric in shown:
        if metric not in first:
            made += [_metric(rows, metric), *_published(rows, metric, f"{METRICS[metric].heading} published")]
    constant = []
    for name, words in CONDITIONS.items():
        values = {getattr(row, name) for row in rows} - {"", None}
        if len(values) > 1:
            made.append(_words(words, [str(getattr(row, name) or "") for row in rows]))
        elif values - {"none"} and name != "family":
            constant.append(WORDS[name].format(*values))
    batches = {row.batch for row in rows} - {None}
    constant += [f"batch {batch}" for batch in batches if len(batches) == 1]
    cells = zip(*(column.cells for column in made), strict=True)
    reasons = map(_reasons, rows)
    return Table(key, title, _above(constant, rows), tuple(made), tuple(cells), tuple(reasons),
                 tuple(contradictions(rows)))  # fmt: skip


def _above(constant: Sequence[str], rows: Sequence[Row]) -> str:
    return " ".join([*([f"All of them: {', '.join(constant)}."] if constant else []), *dirty(rows)])


def _reasons(row: Row) -> str:
    return "; ".join(dict.fromkeys(reason for placed in row.cells.values() for reason in placed.record.reasons))


def _words(text: str, words: Sequence[str]) -> Column:
    return Column(text, [Cell(word, word) for word in words])


def _figures(text: str, metric: str, cells: Sequence[Cell]) -> Column:
    """A column of a metric: the first click puts the best one on top."""
    return Column(text, cells, number=True, first=DOWN if METRICS[metric].better == HIGH else UP)


def _metric(rows: Sequence[Row], metric: str) -> Column:
    base = common_base(rows, metric)
    return _figures(heading(metric, base), metric, [_cell(row, metric, base) for row in rows])


def _cell(row: Row, metric: str, base: str) -> Cell:
    value, record = row.value(metric), row.record(metric)
    bad = record is not None and not record.valid
    return Cell(marked(row, metric, base, True), "" if value is None else value, "number invalid" if bad else "number")


def _published(rows: Sequence[Row], metric: str, text: str) -> list[Column]:
    """A column of published figures; none where there are none."""
    printed = [row.published(metric) for row in rows]
    cells = [Cell("/".join(texts), float(texts[0]) if texts else "", "number published") for texts in printed]
    return [_figures(text, metric, cells)] if any(cell.text for cell in cells) else []
