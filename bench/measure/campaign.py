"""A run of measurements: which jobs, in what order, and what is learnt on the way. Importing this imports no torch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from bench.cli import resolution_name
from bench.measure.environment import physical_cores
from bench.measure.job import COST, MEMORY, THROUGHPUT, Job, Settings, automatic_batch
from bench.measure.runner import run
from bench.models import Entry
from bench.records import Record

Row = tuple[str, str, tuple[int, int]]  # model, form, resolution
COST_METRICS = ("params", "macs")
JOBS_A_COUNTER = 8
"""Counting starts another process only for this many jobs more: a process takes seconds to start."""


@dataclass
class Campaign:
    """What to measure, and what is known so far: `environment`, and `records` in the order of the rows.

    `begun` is told in words what comes next, `done` is called after each of the `jobs()`.
    """

    entries: Sequence[Entry]
    resolutions: Sequence[tuple[int, int]]
    form: str  # deploy, train or both
    metrics: Sequence[str]
    settings: Settings
    begun: Callable[[str], None]
    done: Callable[[], None]
    environment: dict[str, Any] = field(default_factory=dict)
    _records: list[Record] = field(default_factory=list)

    def rows(self) -> list[Row]:
        """The table's rows, in its order."""
        return [(e.name, form, size) for size in self.resolutions for e in self.entries for form in e.forms(self.form)]

    def jobs(self) -> int:
        """How many jobs there are."""
        kinds = {COST if metric in COST_METRICS else metric for metric in self.metrics}
        return len(self.rows()) * len(kinds)

    @property
    def records(self) -> list[Record]:
        """All records so far, with the environment's part filled in."""
        order = {(model, form, resolution_name(size)): i for i, (model, form, size) in enumerate(self.rows())}
        libraries = self.environment.get("libraries", {})
        stamp = {
            **{key: self.environment.get(key, "") for key in ("machine", "python", "driver", "commit")},
            **{key: libraries.get(key, "") for key in ("torch", "timm")},
            "dirty": self.environment.get("dirty"),
        }
        ordered = sorted(self._records, key=lambda r: order[r.model, r.form, r.resolution])
        return [replace(record, **stamp) for record in ordered]

    def measure(self) -> None:
        """Measure everything.

        Raises:
            BadInput: if the machine or the models don't allow what was asked, before anything is measured.
        """
        self._check_and_count()
        for row in self.rows():
            self._measure(row)

    def _job(self, kind: str, metrics: Sequence[str], row: Row, settings: Settings) -> Job:
        model, form, resolution = row
        return Job(kind=kind, model=model, form=form, resolution=resolution, metrics=tuple(metrics), settings=settings)

    def _check_and_count(self) -> None:
        """Check the input and, in the same process, count; in several processes where there is much to count."""
        metrics = [metric for metric in COST_METRICS if metric in self.metrics]
        jobs = [self._job(COST, metrics, row, self.settings) for row in self.rows()] if metrics else []
        models = [[job for job in jobs if job.model == entry.name] for entry in self.entries]
        processes = max(1, min(physical_cores(), len(models), len(jobs) // JOBS_A_COUNTER))
        batches = [list(itertools.chain(*models[i::processes])) for i in range(processes)]
        self.begun("checking models and device")
        check = {"models": [entry.name for entry in self.entries], "settings": asdict(self.settings)}
        for message in run(batches, self.settings.threads, check):
            if isinstance(message, Record):
                self._records.append(message)
            elif isinstance(message, Job):
                self.done()
            else:
                self.environment = message["environment"]
                self.settings = replace(self.settings, device=message["device"])
                if jobs:
                    self.begun("counting parameters and MACs")

    def _measure(self, row: Row) -> None:
        """Throughput, then memory, each in a fresh process; the layout chosen for the first holds for the second."""
        settings = self.settings
        if settings.batch == "auto":
            settings = replace(settings, batch=automatic_batch(settings.device, row[2]))
        for kind in (THROUGHPUT, MEMORY):
            if kind not in self.metrics:
                continue
            self.begun(f"{row[0]} {row[1]} {resolution_name(row[2])}: {kind}")
            for message in run([[self._job(kind, (kind,), row, settings)]], settings.threads):
                if isinstance(message, Record):
                    self._records.append(message)
                    settings = replace(settings, layout=message.layout)
            self.done()
