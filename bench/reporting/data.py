"""What a report shows, gathered from records: machines, rows of models, findings, histories. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.cli import BadInput
from bench.evidence.everything import statements
from bench.evidence.evidence import Evidence, Placed, load
from bench.evidence.finding import Finding
from bench.evidence.judge import judge_all
from bench.machine.environment import describe
from bench.metrics import METRICS
from bench.records.store import ENVIRONMENTS, MEND, environments
from bench.reporting.rows import Row, rows


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
        run = max(known.keys() & _timed(evidence, folder.name) or known, default="")
        try:
            machines[folder.name] = describe(known[run]) if known else folder.name
        except (KeyError, TypeError, AttributeError) as error:
            where = f"{folder / ENVIRONMENTS}: the environment of run {run}"
            raise BadInput(f"{where} does not describe a machine ({error}): {MEND}") from error
    findings = judge_all(statements(), evidence)
    return Report(evidence, machines, rows(evidence.all), findings)


def _timed(evidence: Evidence, machine: str) -> set[str]:
    """The runs of a machine that timed something: its words stand above speeds, and counts depend on no library."""
    timed = {name for name, metric in METRICS.items() if metric.timed}
    return {f.record.run for f in evidence.all if f.record.machine == machine and f.record.metric in timed}


def histories(report: Report) -> dict[tuple[str, ...], list[Placed]]:
    """Series of a figure measured at two commits or more under the same conditions, in time: key -> records.

    Of a commit the newest record counts, and of a tree with changes each run.
    """
    series: dict[tuple[str, ...], dict[str, Placed]] = {}
    for item in sorted(report.evidence.all, key=lambda placed: placed.record.time):
        r = item.record
        if r.metric in ("throughput", "latency", "memory", "top1") and r.valid and r.value is not None:
            what = (r.machine, r.metric, r.model, r.form, r.resolution, r.task)
            key = (*what, r.device, r.dtype, str(r.batch), r.compile, r.backend, str(r.threads))
            series.setdefault(key, {})[r.commit if r.commit and not r.dirty else r.run or r.time] = item
    return {
        key: sorted(states.values(), key=lambda placed: placed.record.time)
        for key, states in sorted(series.items())
        if len(states) > 1
    }
