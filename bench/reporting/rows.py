"""A report's rows: a model under one set of conditions, with its newest figures. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench import metrics
from bench.evidence.evidence import Placed, main_counter
from bench.metrics import METRICS
from bench.models import MODELS, family_of
from bench.published import Printed, beside, distinct
from bench.records.record import Record

MODEL_ORDER = list(MODELS)

SHOWN = tuple(name for name, metric in METRICS.items() if metric.heading and metric.kind != metrics.BREAKDOWN)
"""Metrics that have a column, in the order of tables."""

CONDITIONS = ("machine", *metrics.COUNTED, "training", "device", "dtype", "compile", "threads", "backend", "batch")
"""What rows differ in. The layout is none of them: the faster one of a run stands."""

Conditions = tuple[str, ...]


def conditions_of(metric: str) -> Conditions:
    """The conditions of a row that bear on a metric.

    An accuracy would hold on another machine too, but is shown with the one that it was measured on.
    """
    of = METRICS[metric]
    if of.cost:
        return metrics.COUNTED
    return tuple(name for name in CONDITIONS if name in (*of.depends_on, "machine", "training", "device"))


@dataclass
class Row:
    """A model in one form at one size on one machine under one set of conditions, with a record for each metric."""

    machine: str
    task: str
    head: str
    variant: str
    model: str
    form: str
    resolution: str
    device: str = ""
    dtype: str = ""
    compile: str = ""
    threads: int | None = None  # of a CPU
    backend: str = ""  # ContMix's
    batch: int | None = None
    training: bool = False  # whether steps of training were timed, or inference
    cells: dict[str, Placed] = field(default_factory=dict)

    @property
    def family(self) -> str:
        """The family's name, also of a size that goes by timm's name; timm for other models."""
        return family_of(self.model).name

    @property
    def pixels(self) -> int:
        """Of the image; 0 where the figure is of none."""
        height, _, width = self.resolution.partition("x")
        return int(height) * int(width or height) if height.isdecimal() else 0

    @property
    def under(self) -> str:
        """The conditions that rows of several models can have in common, but for the batch."""
        compiled = f", {self.compile}" if self.compile not in ("", "none") else ""
        threads = f", {self.threads} threads" if self.threads else ""
        return f"{self.device} {self.dtype}{compiled}{threads}"

    @property
    def layout(self) -> str:
        """The layout that was timed."""
        return next((f.record.layout for f in self.measured if f.record.layout and f.record.batch == self.batch), "")

    @property
    def measured(self) -> list[Placed]:
        """The records of what was measured, not only counted."""
        return [placed for metric, placed in self.cells.items() if not METRICS[metric].cost]

    def record(self, metric: str) -> Record | None:
        """The record of a metric; None where there is none."""
        return self.cells[metric].record if metric in self.cells else None

    def value(self, metric: str) -> float | None:
        """A figure in whole units, whether valid or not; None where there is none."""
        return self.cells[metric].record.value if metric in self.cells else None

    def valid(self, metric: str) -> float | None:
        """A figure in whole units; None where there is none that is valid."""
        return self.cells[metric].record.value if metric in self.cells and self.cells[metric].record.valid else None

    def beside(self, metric: str) -> tuple[Printed, ...]:
        """Everything published that this row's figure can be set against."""
        what = {name: getattr(self, name) for name in metrics.COUNTED}
        return beside(metric, **what)

    def published(self, metric: str) -> list[str]:
        """The published figures that stand beside this row's, as printed; contradicting ones side by side."""
        return [figure.text for figure in distinct(self.beside(metric))]

    def under_the(self, conditions: Conditions) -> tuple[Any, ...]:
        """This row's part of a key."""
        return tuple(getattr(self, name) for name in conditions)


def rows(placed: Iterable[Placed]) -> list[Row]:
    """The record of each figure that stands, row by row: by machine, resolution, family and size.

    Records of the same conditions make a row, in which the newest of each metric stands (`_stands`). What depends on
    fewer conditions joins every row that it is true of; it makes a row of its own where there is none of inference.
    """
    made = {conditions: _Rows(conditions) for conditions in sorted(set(map(conditions_of, SHOWN)), key=len)[::-1]}
    for item in sorted(placed, key=lambda f: f.record.time):
        metric = item.record.metric
        if metric not in SHOWN or item.record.of_other_set:  # a table has one column for what is of the published set
            continue
        row = made[conditions_of(metric)].of(_row(item.record))
        if _stands(item.record, row.record(metric)):
            row.cells[metric] = item
    result: list[Row] = []
    for conditions, parts in made.items():
        joined = _Rows(conditions, result)
        for part in parts.all:
            same = joined.like(part)
            for row in same:
                row.cells |= part.cells
            result += [] if any(row.training == part.training for row in same) else [part]
    return sorted(result, key=_order)


def as_measured(records: Sequence[Record]) -> list[Row]:
    """The rows of one run's records, in their order; training, which has tables of its own, comes last."""
    place = {id(record): i for i, record in enumerate(records)}
    made = rows(Placed(record, "") for record in records)
    return sorted(made, key=lambda row: (row.training, max(place[id(placed.record)] for placed in row.cells.values())))


def _row(r: Record) -> Row:
    """A row under all the conditions of a record, empty."""
    what = {name: getattr(r, name) for name in CONDITIONS if name != "training"}
    what["threads"] = r.threads if r.device == "cpu" else None
    return Row(**what, training=METRICS[r.metric].kind == metrics.TRAINING)


class _Rows:
    """Rows by some of their conditions. A row whose backend is not known (nothing ran) is like those of any."""

    def __init__(self, conditions: Conditions, rows: Iterable[Row] = ()) -> None:
        self.conditions = conditions
        self.fixed = tuple(name for name in conditions if name != "backend")
        self._by_key: dict[tuple[Any, ...], list[Row]] = {}
        for row in rows:
            self._by_key.setdefault(row.under_the(self.fixed), []).append(row)

    @property
    def all(self) -> list[Row]:
        return [row for rows in self._by_key.values() for row in rows]

    def like(self, row: Row) -> list[Row]:
        """The rows under the same conditions."""
        known = self._by_key.get(row.under_the(self.fixed), [])
        any_backend = "backend" not in self.conditions
        return [k for k in known if any_backend or k.backend == row.backend or "" in (k.backend, row.backend)]

    def of(self, row: Row) -> Row:
        """The row under the same conditions; `row` itself, without the other conditions, where there is none."""
        for known in self.like(row):
            known.backend = known.backend or row.backend
            return known
        other = {name: getattr(Row, name) for name in CONDITIONS if name not in (*self.conditions, "machine")}
        self._by_key.setdefault(row.under_the(self.fixed), []).append(row)
        vars(row).update(other)
        return row


def _stands(r: Record, before: Record | None) -> bool:
    """Whether a record takes the place of an earlier one of the same conditions.

    The newest does, but a count by another convention than ours never. One run may time several configurations of a
    model that no condition distinguishes (layouts, what ran depthwise convolutions): of these the fastest stands, one
    measured in more processes before others; and of several ratios the first, which is the one to the baseline.
    """
    if before is None:
        return True
    if METRICS[r.metric].cost:
        return main_counter(r) and r.value is not None
    if not r.run or r.run != before.run or before.value is None:
        return True
    if r.metric not in ("throughput", "training"):
        return not r.against
    return r.value is not None and (r.valid, r.n or 0, r.value) > (before.valid, before.n or 0, before.value)


def _order(row: Row) -> tuple[Any, ...]:
    place = MODEL_ORDER.index(row.model) if row.model in MODEL_ORDER else len(MODEL_ORDER)
    where = (row.task, row.head, row.machine, not row.device, row.device, row.dtype, row.training)
    how = (row.compile, row.threads or 0, row.backend)
    return (*where, row.pixels, place, row.model, row.form, row.batch or 0, *how)


def main_rows(placed: Sequence[Row]) -> list[Row]:
    """The rows of inference that charts show: of several backends the fastest that the newest run measured."""
    same = tuple(name for name in CONDITIONS if name != "backend")
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in placed:
        if not row.training:
            groups.setdefault(row.under_the(same), []).append(row)
    return [max(group, key=lambda row: (_run(row) == max(map(_run, group)), row.value("throughput") or 0.0))
            for group in groups.values()]  # fmt: skip


def _run(row: Row) -> str:
    """The newest run that a row has a figure of; runs' names begin with their time."""
    return max((placed.record.run for placed in row.measured), default="")
