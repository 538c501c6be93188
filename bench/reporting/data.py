"""What a report shows, gathered from records: machines, rows of models, histories. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from bench.evidence.evidence import Evidence, Found, head_of, load, main_counter
from bench.evidence.figures import figure_statements
from bench.evidence.judge import Finding, judge_all
from bench.evidence.statement import Subject, distinct
from bench.measure.environment import describe
from bench.models import MODELS, TIMM
from bench.paths import REPOSITORY
from bench.statements import STATEMENTS
from bench.store import environments

MODEL_ORDER = list(MODELS)
COUNTED = ("params", "macs", "activations")


@dataclass(frozen=True)
class Metric:
    """How a metric is shown: heading, unit, what values are divided by, digits after the point, which way is better."""

    heading: str
    unit: str
    divisor: float
    digits: int
    better: str = "low"


METRICS: Mapping[str, Metric] = {
    "params": Metric("parameters", "M", 1e6, 2),
    "macs": Metric("MACs", "G", 1e9, 2),
    "throughput": Metric("throughput", "images/s", 1, 1, "high"),
    "throughput_ratio": Metric("throughput ratio", "x", 1, 2, "high"),
    "latency": Metric("latency", "ms", 1e-3, 1),
    "memory": Metric("memory", "MiB", 2**20, 1),
    "training": Metric("training", "images/s", 1, 2, "high"),
    "energy": Metric("energy", "J/image", 1, 3),
    "top1": Metric("top-1", "%", 1, 2, "high"),
}
"""Metrics of the main table, in its order. The three of `COUNTED` and top-1 do not depend on the machine."""

RowKey = tuple[Any, ...]


@dataclass
class Row:
    """One model in one form at one resolution on one machine under one set of conditions, with a record a metric."""

    machine: str
    task: str
    head: str
    model: str
    form: str
    resolution: str
    device: str = ""
    dtype: str = ""
    batch: int | None = None
    compile: str = ""
    cells: dict[str, Found] = field(default_factory=dict)

    @property
    def family(self) -> str:
        """The family's name, also of a size that goes by timm's name; timm for other models."""
        if self.model in MODELS:
            return MODELS[self.model].family.name
        names = {entry.name.partition("_")[0]: entry.family.name for entry in MODELS.values()}
        return names.get(self.model.partition("_")[0], TIMM.name)

    @property
    def pixels(self) -> int:
        height, _, width = self.resolution.partition("x")
        return int(height) * int(width or height)

    def value(self, metric: str) -> float | None:
        """A figure in whole units, whether valid or not; None where there is none."""
        return self.cells[metric].record.value if metric in self.cells else None

    @cached_property
    def published_top1(self) -> list[str]:
        """Published top-1 of the weights that the suite evaluates this model with, contradicting ones side by side."""
        return _published().get(("top1", self.model, self.resolution), []) if not self.head else []

    def published(self, metric: str) -> list[str]:
        """Published parameters (M) or FLOPs (G), of the deploy form only."""
        if self.form != "deploy" or self.head:
            return []
        return _published().get((metric, self.model, "" if metric == "params" else self.resolution), [])


_PUBLISHED: dict[tuple[str, str, str], list[str]] = {}


def _published() -> dict[tuple[str, str, str], list[str]]:
    if not _PUBLISHED:
        for statement in figure_statements():
            s: Subject = statement.subjects[0]
            if s.task == "classification" and not s.weights:
                key = (s.metric, s.model, "" if s.metric == "params" else s.resolution)
                _PUBLISHED[key] = [figure.text for figure in distinct(statement.printed)]
    return _PUBLISHED


@dataclass(frozen=True)
class Report:
    """Everything that a report is made of."""

    evidence: Evidence
    machines: Mapping[str, str]  # key -> what it is, in words
    rows: Sequence[Row]
    findings: Sequence[Finding]

    @property
    def fingerprint(self) -> str:
        """A hash of what is shown: equal for equal records, whoever draws them."""
        shown = [[str(f), f.record.to_dict()] for f in self.evidence.all]
        verdicts = [[f.statement.id, f.verdict.value] for f in self.findings]
        text = json.dumps([shown, verdicts], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def gather(results: Path) -> Report:
    """Read all records below `results` and judge all statements by them.

    Raises:
        BadInput: if a file there cannot be read.
    """
    evidence = load(results)
    machines: dict[str, str] = {}
    for folder in sorted({results / f.record.machine for f in evidence.all if f.record.machine}):
        known = environments(folder)
        machines[folder.name] = describe(known[max(known)]) if known else folder.name
    findings = judge_all((*STATEMENTS, *figure_statements()), evidence)
    return Report(evidence, machines, rows(evidence.all), findings)


def rows(found: Iterable[Found]) -> list[Row]:
    """The newest record of each metric, row by row: by machine, resolution, family and size.

    What is counted joins every row of its model, form and resolution; it makes a row of its own where nothing was
    measured beside it.
    """
    made: dict[RowKey, list[Row]] = {}
    counted: dict[RowKey, dict[str, Found]] = {}
    for item in sorted(found, key=lambda f: f.record.time):
        r = item.record
        if r.metric not in METRICS and r.metric not in COUNTED:
            continue
        head = head_of(r) if r.task != "classification" else ""
        what = (r.task, head, r.model, r.form, r.resolution)
        if r.metric in COUNTED:
            if _main_count(item, counted.get(what, {}).get(r.metric)):
                counted.setdefault(what, {})[r.metric] = item
            continue
        batch = r.batch if r.metric in ("throughput", "throughput_ratio") else None
        key = (r.machine, *what, r.device, r.dtype, r.compile)
        same = made.setdefault(key, [])
        row = next((known for known in same if batch is None or known.batch in (None, batch)), None)
        if row is None:
            row = Row(r.machine, *what, r.device, r.dtype, batch, r.compile)
            same.append(row)
        row.batch = batch if batch is not None else row.batch
        row.cells[r.metric] = item
    result = [row for same in made.values() for row in same]
    have = {(row.task, row.head, row.model, row.form, row.resolution) for row in result}
    for row in result:
        row.cells |= counted.get((row.task, row.head, row.model, row.form, row.resolution), {})
    for what, cells in counted.items():
        if what not in have:
            machine = next(iter(cells.values())).record.machine
            result.append(Row(machine, *what, cells=dict(cells)))
    return sorted(result, key=_order)


def _main_count(item: Found, before: Found | None) -> bool:
    """Whether a count takes the place of the one before it: a convention beside the main one never does."""
    return (main_counter(item.record) and item.record.value is not None) or before is None


def _order(row: Row) -> tuple[Any, ...]:
    place = MODEL_ORDER.index(row.model) if row.model in MODEL_ORDER else len(MODEL_ORDER)
    where = (row.task, row.head, row.machine, not row.device, row.device, row.dtype)
    return (*where, row.pixels, place, row.model, row.form, row.batch or 0)


def measured_rows(report: Report) -> list[Row]:
    """Rows with something that was measured, not only counted."""
    return [row for row in report.rows if any(metric not in COUNTED for metric in row.cells)]


def histories(report: Report) -> dict[tuple[str, ...], list[Found]]:
    """Series of a figure measured by two runs or more under the same conditions, in time: key -> records."""
    series: dict[tuple[str, ...], dict[str, Found]] = {}
    for item in report.evidence.all:
        r = item.record
        if r.metric in ("throughput", "latency", "memory", "top1") and r.valid and r.value is not None:
            what = (r.machine, r.metric, r.model, r.form, r.resolution, r.task)
            key = (*what, r.device, r.dtype, str(r.batch), r.compile)
            series.setdefault(key, {})[r.run or r.time] = item
    return {
        key: sorted(runs.values(), key=lambda f: f.record.time) for key, runs in sorted(series.items()) if len(runs) > 1
    }


def in_words(machine: str, report: Report) -> str:
    """A machine's description."""
    return report.machines.get(machine, machine)


def default_results() -> Path:
    """The repository's `results/`."""
    return REPOSITORY / "results"
