"""What a run measures, as data: models in their forms, over sizes, batches and dtypes. Imports no torch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from bench.engine.passes import Count
from bench.engine.plan import DEFAULT, Plan
from bench.engine.request import TIMED, Request, Settings, automatic_batch
from bench.metrics import BREAKDOWN, COST, LARGEST_BATCH, LATENCY, MEMORY, TRAINING, of_kind
from bench.models import Entry

TOGETHER = 4
"""Sides timed against each other at once, the baseline among them: more would lie too far apart, and take memory."""

CHECK = "check"
CHECK_SECONDS, COUNT_SECONDS, ROUND_SECONDS, PASS_SECONDS = 5.0, 0.3, 8.0, 4.0
"""About what checking the input, a count, a round of `TOGETHER` sides and a pass of one model take, with loading."""

Row = tuple[str, str]  # model, form


@dataclass(frozen=True)
class Point:
    """One point of a sweep."""

    resolution: tuple[int, int]
    batch: int | str
    dtype: str


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What to measure. Of each kind of measurement it has the requests, in the order of the table's rows."""

    entries: Sequence[Entry]
    resolutions: Sequence[tuple[int, int]]
    form: str  # deploy, train or both
    metrics: Sequence[str]
    settings: Settings
    baseline: str
    batches: Sequence[int | str] = ("auto",)
    dtypes: Sequence[str] = ("float32",)
    plan: Plan = DEFAULT
    task: str = "classification"
    head: str = ""

    def rows(self, kind: str = "") -> list[Row]:
        """The sides of a kind of measurement, or all of them, in the table's order."""
        return [(entry.name, form) for entry in self.entries for form in self._forms(entry, kind)]

    def _forms(self, entry: Entry, kind: str) -> tuple[str, ...]:
        """What is trained is the training form, whichever is asked for."""
        asked, trained = entry.forms(self.form), entry.forms("train")
        if kind:
            return trained if kind == TRAINING else asked
        others = set(self.metrics) - set(of_kind(TRAINING))
        return tuple(dict.fromkeys((*(asked if others else ()), *(trained if self.wanted(TRAINING) else ()))))

    def points(self) -> list[Point]:
        """The points of the sweep, in order."""
        return [Point(*values) for values in itertools.product(self.resolutions, self.batches, self.dtypes)]

    def wanted(self, kind: str) -> tuple[str, ...]:
        """The metrics asked for that a kind of measurement gives."""
        return tuple(metric for metric in of_kind(kind) if metric in self.metrics)

    def timed(self, point: Point) -> list[str]:
        """The kinds timed at a point; latency, always of one image, only at its resolution's first batch."""
        return self._kinds(TIMED, point, once=LATENCY)

    def passes(self, point: Point) -> list[str]:
        """The kinds at a point that have passes of their own; the largest batch does not depend on the point's."""
        return self._kinds((MEMORY, LARGEST_BATCH, BREAKDOWN), point, once=LARGEST_BATCH)

    def _kinds(self, kinds: Sequence[str], point: Point, once: str) -> list[str]:
        return [k for k in kinds if self.wanted(k) and (k != once or point.batch == self.batches[0])]

    def groups(self, kind: str) -> list[list[Row]]:
        """Sides timed against each other: the baseline's, and a few others."""
        base = [row for row in self.rows(kind) if row[0] == self.baseline]
        others = [row for row in self.rows(kind) if row[0] != self.baseline]
        room = max(1, TOGETHER - len(base))
        return [[*others[i : i + room], *base] for i in range(0, len(others), room)] or [base]

    def steps(self) -> dict[str, tuple[int, float]]:
        """How many steps of each kind a run has, and about how many seconds one takes as long as none was measured.

        Steps are the check of the input, counts, passes, and rounds of each group of sides; of a plan that ends by
        precision or time, each group's rounds together.
        """
        steps = {CHECK: (1, CHECK_SECONDS), COST: (sum(map(len, self.counts())), COUNT_SECONDS)}
        by_time = self.plan.precision > 0
        for point in self.points():
            for kind in self.timed(point):
                rounds = len(self.groups(kind)) * (1 if by_time else self.plan.rounds)
                seconds = self.plan.seconds if by_time else ROUND_SECONDS
                steps[kind] = steps.get(kind, (0, 0.0))[0] + rounds, seconds
            for kind in self.passes(point):
                steps[kind] = steps.get(kind, (0, 0.0))[0] + len(self.rows(kind)), PASS_SECONDS
        return steps

    def counts(self) -> list[list[Count]]:
        """What is counted, model by model."""
        settings = replace(self.settings, batch="auto")
        return [
            [
                (self._request(COST, (entry.name, form), size, settings), metric)
                for size in self.resolutions
                for form in entry.forms(self.form)
                for metric in self.wanted(COST)
            ]
            for entry in self.entries
        ]

    def request(self, kind: str, row: Row, point: Point) -> Request:
        """What is measured of a row at a point."""
        batch, device = point.batch, self.settings.device
        if batch == "auto":
            batch = automatic_batch(device, point.resolution)
            on_cpu = device == "cpu"
            if (on_cpu and self.plan.rough) or (kind == TRAINING and not on_cpu):
                batch = max(1, batch // 2)
        settings = replace(self.settings, batch=batch, dtype=point.dtype)
        return self._request(kind, row, point.resolution, settings)

    def _request(self, kind: str, row: Row, size: tuple[int, int], settings: Settings) -> Request:
        model, form = row
        return Request(
            kind=kind, model=model, form=form, resolution=size, settings=settings, task=self.task, head=self.head
        )

    def to_check(self) -> dict[str, Any]:
        """The arguments of `bench.engine.check.check`."""
        models = [entry.name for entry in self.entries]
        settings = asdict(self.settings)
        what = {"task": self.task, "head": self.head}
        return {"models": models, "settings": settings, "dtypes": list(self.dtypes), **what}
