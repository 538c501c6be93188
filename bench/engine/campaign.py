"""A run of measurements: which, in what order, and what is known of them so far. Importing this imports no torch.

Counting comes first. Then, for each resolution, batch and dtype, the sides (a model in a form) are timed against each
other, the baseline among them; then what has a pass of its own (memory, largest batch), each in a fresh process. Every
record is passed on as soon as it is known.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from bench.cli import resolution_name
from bench.engine import interleaved
from bench.engine.figures import OF_KIND, PRIMARY, records_of
from bench.engine.job import COST, COST_METRICS, LARGEST_BATCH, MEMORY, Job, Settings, automatic_batch
from bench.engine.runner import run
from bench.engine.side import DEFAULT, ENERGY_BLOCK, KINDS, LATENCY, TRAINING, Plan, Side
from bench.machine import calibration
from bench.machine.environment import physical_cores, state
from bench.models import Entry
from bench.records.record import Record, new_run, stamped

JOBS_A_COUNTER = 8
"""Counting starts another process only for this many jobs more: a process takes seconds to start."""

TOGETHER = 4
"""Sides timed against each other at once, the baseline among them: more would lie too far apart, and take memory."""

Row = tuple[str, str]  # model, form


@dataclass(frozen=True)
class Point:
    """One point of a sweep."""

    resolution: tuple[int, int]
    batch: int | str
    dtype: str


@dataclass
class Campaign:
    """What to measure, and what is known so far: `environment`, and `records` in the order of the rows.

    `begun` hears in words what comes next, `done` is called after each of the `steps()`; `kept` hears each record as
    soon as it is known; `known` are records of an earlier run that need no measuring.
    """

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
    begun: Callable[[str], None] = lambda what: None
    done: Callable[[], None] = lambda: None
    kept: Callable[[Record], None] = lambda record: None
    known: Sequence[Record] = ()
    environment: dict[str, Any] = field(default_factory=dict)
    run: str = field(default_factory=new_run)
    _records: list[Record] = field(default_factory=list)

    def rows(self) -> list[Row]:
        """The sides compared, in the table's order."""
        return [(entry.name, form) for entry in self.entries for form in entry.forms(self.form)]

    def points(self) -> list[Point]:
        """The sweep, in order."""
        return [Point(*values) for values in itertools.product(self.resolutions, self.batches, self.dtypes)]

    def steps(self) -> int:
        """How often `done` will be called: counting jobs, rounds of each group of sides, and passes."""
        rows, points = len(self.rows()), self.points()
        costs = rows * len(self.resolutions) if self._wanted(COST_METRICS) else 0
        rounds = sum(len(self._kinds(point)) for point in points) * len(self._groups()) * self.plan.rounds
        passes = sum(len(self._passes(point)) for point in points) * rows
        return costs + rounds + passes

    @property
    def records(self) -> list[Record]:
        """All records so far, those of the earlier run among them, in the order of the rows."""
        order = {row: i for i, row in enumerate(self.rows())}
        sizes = {resolution_name(size): i for i, size in enumerate(self.resolutions)}
        found = [*self.known, *self._records]
        wanted = [r for r in found if (r.model, r.form) in order and r.resolution in sizes]
        return sorted(wanted, key=lambda r: (sizes[r.resolution], order[r.model, r.form]))

    @property
    def new_records(self) -> list[Record]:
        """The records of this run alone."""
        return list(self._records)

    def measure(self) -> None:
        """Measure everything.

        Raises:
            BadInput: if the machine or the models don't allow what was asked, before anything is measured.
        """
        self._check_and_count()
        try:
            self._measure_points()
        finally:
            self.environment["after"] = state(self.environment)

    def _measure_points(self) -> None:
        for point in self.points():
            for kind in self._kinds(point):
                for group in self._groups():
                    self._time(kind, group, point)
            for kind in self._passes(point):
                beside = 1 if self.settings.device.startswith("cuda") else physical_cores()
                rows = self.rows()
                for i in range(0, len(rows), beside):
                    self._pass(kind, rows[i : i + beside], point)

    def _wanted(self, metrics: Sequence[str]) -> tuple[str, ...]:
        return tuple(metric for metric in metrics if metric in self.metrics)

    def _kinds(self, point: Point) -> list[str]:
        """What is timed at a point; latency, at batch 1 whatever the point's, only at its resolution's first batch."""
        asked = [kind for kind in KINDS if self._wanted(OF_KIND[kind])]
        return [kind for kind in asked if kind != LATENCY or point.batch == self.batches[0]]

    def _passes(self, point: Point) -> list[str]:
        asked = [kind for kind in (MEMORY, LARGEST_BATCH) if kind in self.metrics]
        return [kind for kind in asked if kind != LARGEST_BATCH or point.batch == self.batches[0]]

    def _groups(self) -> list[list[Row]]:
        """Sides timed against each other: the baseline's, and a few others."""
        base = [row for row in self.rows() if row[0] == self.baseline]
        others = [row for row in self.rows() if row[0] != self.baseline]
        room = max(1, TOGETHER - len(base))
        return [[*others[i : i + room], *base] for i in range(0, len(others), room)] or [base]

    def _settings(self, point: Point, training: bool = False) -> Settings:
        batch = point.batch
        if batch == "auto":
            batch = automatic_batch(self.settings.device, point.resolution)
            if training and self.settings.device != "cpu":
                batch = max(1, batch // 2)
        return replace(self.settings, batch=batch, dtype=point.dtype)

    def _keep(self, record: Record) -> None:
        record = stamped(record, self.environment, self.run)
        self._records.append(record)
        self.kept(record)

    def _is_known(self, row: Row, resolution: tuple[int, int], metric: str, settings: Settings | None) -> bool:
        """Whether the earlier run has this figure, measured by this code under these conditions."""
        environment = self.environment
        for r in self.known:
            same = (r.model, r.form, r.resolution, r.metric, r.task) == (
                *row,
                resolution_name(resolution),
                metric,
                self.task,
            )
            if not same or r.value is None or r.commit != environment.get("commit", ""):
                continue
            if settings is None:
                return True
            batch = 1 if metric == "latency" else None if metric == LARGEST_BATCH else settings.batch
            conditions = (r.batch, r.dtype, r.compile, r.threads, r.device, r.machine, r.torch)
            asked = (batch, settings.dtype, settings.compile, settings.threads, settings.device)
            if conditions == (*asked, environment.get("machine"), environment.get("libraries", {}).get("torch")):
                return True
        return False

    def _job(self, kind: str, metrics: Sequence[str], row: Row, size: tuple[int, int], settings: Settings) -> Job:
        return Job(
            kind=kind,
            model=row[0],
            form=row[1],
            resolution=size,
            metrics=tuple(metrics),
            settings=settings,
            task=self.task,
            head=self.head,
        )

    def _check_and_count(self) -> None:
        """Check the input and, in the same process, count; in several processes where there is much to count."""
        metrics = self._wanted(COST_METRICS)
        jobs = [
            self._job(COST, metrics, row, size, replace(self.settings, batch="auto"))
            for size in self.resolutions
            for row in self.rows()
            if metrics
        ]
        models = [[job for job in jobs if job.model == entry.name] for entry in self.entries]
        processes = max(1, min(physical_cores(), len(models), len(jobs) // JOBS_A_COUNTER))
        batches = [list(itertools.chain(*models[i::processes])) for i in range(processes)]
        self.begun("checking models and device")
        check = {
            "models": [entry.name for entry in self.entries],
            "settings": asdict(self.settings),
            "dtypes": list(self.dtypes),
            "task": self.task,
        }
        early: list[Record] = []  # counted by another process before the first one has described the machine
        for message in run(batches, self.settings.threads, check):
            if isinstance(message, Record):
                early.append(message)
            elif isinstance(message, Job):
                self.done()
            else:
                self.environment = message["environment"]
                self.settings = replace(self.settings, device=message["device"])
                found = calibration.latest(str(self.environment["machine"]))
                self.plan = replace(self.plan, canary_limit=calibration.canary_limit(found, self.plan.canary_limit))
                if jobs:
                    self.begun("counting parameters and MACs")
            if self.environment:
                for record in early:
                    row = (record.model, record.form)
                    size = next(s for s in self.resolutions if resolution_name(s) == record.resolution)
                    if not self._is_known(row, size, record.metric, None):
                        self._keep(record)
                early.clear()

    def _time(self, kind: str, group: Sequence[Row], point: Point) -> None:
        """One interleaved measurement; what is known when it is interrupted is kept."""
        settings = self._settings(point, training=kind == TRAINING)
        metrics = self._wanted(OF_KIND[kind])
        baseline_again = group != self._groups()[0]
        if all(self._is_known(row, point.resolution, metric, settings) for row in group for metric in metrics):
            for _ in range(self.plan.rounds):
                self.done()
            return
        sides = [
            Side(
                model=model,
                form=form,
                resolution=point.resolution,
                settings=settings,
                task=self.task,
                head=self.head,
            )
            for model, form in group
        ]
        at = f"{resolution_name(point.resolution)} {point.dtype} batch {1 if kind == LATENCY else settings.batch}"
        outcome: interleaved.Outcome | None = None
        rounds = 0
        plan = self.plan
        if "energy" in metrics and settings.device.startswith("cuda"):
            plan = replace(plan, block=max(plan.block, ENERGY_BLOCK))
        known = interleaved.measure(sides, kind, plan, lambda what: self.begun(f"{kind} {at}: {what}"))
        try:
            for outcome in known:  # noqa: B007 (the one object, growing)
                rounds += 1
                if rounds <= self.plan.rounds:
                    self.done()
            for _ in range(rounds, self.plan.rounds):
                self.done()
        except KeyboardInterrupt:
            if outcome is not None:
                outcome.notes.append(f"stopped after {rounds} of {max(rounds, self.plan.rounds)} rounds")
                self._report(outcome, kind, metrics, baseline_again)
            raise
        if outcome is not None:
            self._report(outcome, kind, metrics, baseline_again)

    def _report(self, outcome: interleaved.Outcome, kind: str, metrics: Sequence[str], baseline_again: bool) -> None:
        """Records of one measurement: ratios to the baseline in the same form, or in the only one it has. The
        baseline's own figures are those of its first group."""
        forms = {side.form: i for i, side in enumerate(outcome.sides) if side.model == self.baseline}
        bases = [
            None if side.model == self.baseline else forms.get(side.form, next(iter(forms.values())))
            for side in outcome.sides
        ]
        for record in records_of(outcome, kind, [*metrics, *_with(metrics, kind)], bases):
            if not (baseline_again and record.model == self.baseline):
                self._keep(record)

    def _pass(self, kind: str, rows: Sequence[Row], point: Point) -> None:
        """Memory or the largest batch, in fresh processes that load side by side and measure one after another; the
        layout that was timed holds here too."""
        jobs = []
        for row in rows:
            settings = self._settings(point)
            if self._is_known(row, point.resolution, kind, settings):
                self.done()
                continue
            timed = [r for r in self.records if (r.model, r.form, r.metric) == (*row, "throughput")]
            size = resolution_name(point.resolution)
            at = [r.layout for r in timed if (r.resolution, r.dtype) == (size, point.dtype) and r.layout != "auto"]
            if settings.layout == "auto" and at:
                settings = replace(settings, layout=at[-1])
            jobs.append([self._job(kind, (kind,), row, point.resolution, settings)])
        if not jobs:
            return
        self.begun(f"{kind.replace('_', ' ')} of {', '.join(job.model for (job,) in jobs)}")
        for message in run(jobs, self.settings.threads):
            if isinstance(message, Record):
                self._keep(message)
            elif isinstance(message, Job):
                self.done()


def _with(metrics: Sequence[str], kind: str) -> tuple[str, ...]:
    """Metrics that come along with those asked for."""
    if PRIMARY[kind] not in metrics:
        return ()
    tail = ("latency_p90", "latency_p99") if kind == LATENCY else ()
    return (f"{PRIMARY[kind]}_ratio", *tail)
