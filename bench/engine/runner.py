"""Measures a sweep, in what order, and what is known of it so far. Importing this imports no torch.

Counting comes first, while the first processes to be timed load. Then, for each resolution, batch and dtype, the sides
(a model in a form) are timed against each other, the baseline among them; then what has a pass of its own (memory,
largest batch, breakdown), each in a fresh process. Every record is passed on as soon as it is known.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bench.cli import resolution_name
from bench.engine import interleaved, passes
from bench.engine.figures import records_of
from bench.engine.outcome import Outcome
from bench.engine.plan import ENERGY_BLOCK
from bench.engine.request import Request
from bench.engine.sweep import CHECK, PASS_SECONDS, Point, Row, Sweep
from bench.machine import calibration
from bench.machine.environment import physical_cores, state
from bench.metrics import COST, LATENCY, MEMORY, THROUGHPUT, of_kind
from bench.records.comparability import covers
from bench.records.record import Record, new_run, stamped

COUNTS_OF_A_PROCESS = 16
"""Counting starts another process only for this many counts more."""


@dataclass
class Runner:
    """A run of a sweep, and what is known so far: `environment`, and `records` in the order of the rows.

    `begun` is called with what comes next, in words, `said` with what is known so far, `done` with the
    kind of each of the sweep's `steps()` that has ended, `kept` with each record as soon as it is known; `known` are
    records of an earlier run, which need no measuring.
    """

    sweep: Sweep
    begun: Callable[[str], None] = lambda what: None
    done: Callable[[str], None] = lambda kind: None
    kept: Callable[[Record], None] = lambda record: None
    known: Sequence[Record] = ()
    said: Callable[[str], None] = lambda line: None
    started: float = field(default_factory=time.monotonic)
    environment: dict[str, Any] = field(default_factory=dict)
    counted: Iterator[passes.Known] = field(default_factory=lambda: iter(()))
    run: str = field(default_factory=new_run)
    new_records: list[Record] = field(default_factory=list)  # of this run alone

    @property
    def records(self) -> list[Record]:
        """All records so far, those of the earlier run among them, in the order of the rows."""
        order = {row: i for i, row in enumerate(self.sweep.rows())}
        sizes = {resolution_name(size): i for i, size in enumerate(self.sweep.resolutions)}
        every = [*self.known, *self.new_records]
        wanted = [r for r in every if (r.model, r.form) in order and r.resolution in sizes]
        return sorted(wanted, key=lambda r: (sizes[r.resolution], order[r.model, r.form]))

    def measure(self) -> None:
        """Measure everything.

        Raises:
            BadInput: if the machine or the models don't allow what was asked, before anything is measured.
        """
        models = self.sweep.counts()
        number = sum(map(len, models))
        processes = max(1, min(physical_cores(), len(models), number // COUNTS_OF_A_PROCESS))
        shares = [list(itertools.chain(*models[i::processes])) for i in range(processes)]
        self.begun("checking models and device")
        with passes.counting(shares, self.sweep.settings, self.sweep.to_check()) as (checked, self.counted):
            self.done(CHECK)
            self._begin(checked)
            try:
                self._measure()
            finally:
                self.environment["after"] = state(self.environment)

    def _begin(self, checked: Mapping[str, Any]) -> None:
        """Take what the check found out."""
        self.environment = checked["environment"]
        limit = calibration.canary_limit(
            calibration.latest(str(self.environment["machine"])), self.sweep.plan.canary_limit
        )
        self.sweep = replace(
            self.sweep,
            settings=replace(self.sweep.settings, device=checked["device"]),
            plan=replace(self.sweep.plan, canary_limit=limit),
        )

    def _measure(self) -> None:
        beside = 1 if self.sweep.settings.device.startswith("cuda") else physical_cores()
        for point in self.sweep.points():
            for kind in self.sweep.timed(point):
                for group in self.sweep.groups(kind):
                    self._time(kind, group, point)
            for kind in self.sweep.passes(point):
                rows = self.sweep.rows(kind)
                together = beside if kind == MEMORY else 1  # others are timed, or take all memory that is free
                for i in range(0, len(rows), together):
                    self._pass(kind, rows[i : i + together], point)
        self._count()

    def _count(self) -> None:
        """Take the counts, of which there are none left the second time: what comes next needs a quiet machine."""
        for request, records in self.counted:
            self.begun(f"counting {request.model}")
            for record in records:
                if not self._is_known(request, record.metric):
                    self._keep(record)
            self.done(COST)

    def _keep(self, record: Record) -> None:
        record = stamped(record, self.environment, self.run)
        self.new_records.append(record)
        self.kept(record)

    def _is_known(self, request: Request, metric: str) -> bool:
        """Whether the earlier run has this figure, measured by this code under these conditions."""
        planned = stamped(request.record(metric), self.environment, self.run)
        code = (planned.commit, planned.torch)
        return any((r.commit, r.torch) == code and covers(r, planned) for r in self.known)

    def _time(self, kind: str, group: Sequence[Row], point: Point) -> None:
        """One interleaved measurement; what is known when it is interrupted is kept."""
        metrics = self.sweep.wanted(kind)
        plan = replace(self.sweep.plan, seconds=self._seconds(kind, group, point))
        sides = [self.sweep.request(kind, row, point) for row in group]
        steps = iter(range(1 if plan.precision else plan.rounds))
        if all(self._is_known(side, metric) for side in sides for metric in metrics):
            for _ in steps:
                self.done(kind)
            return
        at = f"{resolution_name(point.resolution)} {point.dtype} batch {sides[0].images}"
        if "energy" in metrics and self.sweep.settings.device.startswith("cuda"):
            plan = replace(plan, block=max(plan.block, ENERGY_BLOCK))
        outcome = Outcome.of_none(sides, plan)
        baseline_again = group != self.sweep.groups(kind)[0]

        def begun(what: str) -> None:
            self.begun(f"{kind} {at}: {what}")

        try:
            for _ in interleaved.measure(sides, plan, begun, outcome, known=self.said, meanwhile=self._count):
                if not plan.precision and next(steps, None) is not None:
                    self.done(kind)
            for _ in steps:
                self.done(kind)
        except KeyboardInterrupt:
            outcome.notes.append(f"stopped after {outcome.rounds} of {max(outcome.rounds, plan.rounds)} rounds")
            raise
        finally:
            if outcome.rounds:
                self._report(outcome, metrics, baseline_again)

    def _seconds(self, kind: str, group: Sequence[Row], point: Point) -> float:
        """The time of a measurement's rounds: of the first, what `--time` leaves after checking, counting and passes,
        so that a command that compares one group takes about so long in all."""
        kind_first = self.sweep.timed(point)[0]
        first = (kind, group, point) == (kind_first, self.sweep.groups(kind_first)[0], self.sweep.points()[0])
        if not first:
            return self.sweep.plan.seconds
        passes = PASS_SECONDS * len(self.sweep.passes(point)) * len(group)
        return self.sweep.plan.seconds - (time.monotonic() - self.started) - passes

    def _report(self, outcome: Outcome, metrics: Sequence[str], baseline_again: bool) -> None:
        """Keep the records of one measurement: ratios to the baseline in the same form, or in the only one it has. The
        baseline's own figures are those of its first group."""
        baseline = self.sweep.baseline
        forms = {side.form: i for i, side in enumerate(outcome.sides) if side.model == baseline}
        bases = [
            None if side.model == baseline else forms.get(side.form, next(iter(forms.values())))
            for side in outcome.sides
        ]
        for record in records_of(outcome, [*metrics, *_along(metrics)], bases):
            if not (baseline_again and record.model == baseline):
                self._keep(record)

    def _pass(self, kind: str, rows: Sequence[Row], point: Point) -> None:
        """Memory, the largest batch or a breakdown of some rows, each in a fresh process."""
        self._count()
        requests = []
        for row in rows:
            request = self.sweep.request(kind, row, point)
            if self._is_known(request, of_kind(kind)[0]):
                self.done(kind)
            else:
                requests.append(self._laid_out(request))
        if not requests:
            return
        self.begun(f"{kind.replace('_', ' ')} of {', '.join(request.model for request in requests)}")
        for _, records in passes.measured(requests):
            for record in records:
                self._keep(record)
            self.done(kind)

    def _laid_out(self, request: Request) -> Request:
        """The request with the layout that was timed, where it leaves the layout open."""
        if request.settings.layout != "auto":
            return request
        timed = replace(request, kind=THROUGHPUT).record(THROUGHPUT)
        layouts = [r.layout for r in self.records if r.layout != "auto" and covers(r, replace(timed, batch=None))]
        return replace(request, settings=replace(request.settings, layout=layouts[-1])) if layouts else request


def _along(metrics: Sequence[str]) -> list[str]:
    """Metrics that come along with those asked for: a ratio, and the tail of latencies."""
    return [*(f"{m}_ratio" for m in metrics), *(m for m in of_kind(LATENCY) if LATENCY in metrics)]
