"""Statements about speed: one run must have measured both sides in paired rounds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from bench.evidence.decide import decide, join, not_measured
from bench.evidence.evidence import Evidence, Placed, conditions
from bench.evidence.finding import Finding
from bench.evidence.statement import Statement
from bench.published import Subject
from bench.records.record import Record

Ratio = tuple[float, float, float, Placed]  # the value, its interval, and the record


def judge_timed(statement: Statement, evidence: Evidence) -> list[Finding]:
    """A finding for each machine and conditions, from the newest run that paired both sides.

    Medians of a run whose sides took no turns with each other are not set against each other.
    """
    first, second, *others = statement.subjects
    assert statement.combine == "product", "a statement about speed is about a ratio"
    assert statement.factors[:2] == (1, -1), "a statement about speed is about a ratio"
    costs = {subject: rests[0] for subject in others if (rests := evidence.of(subject))}
    newest: dict[object, Ratio] = {}
    for ratio in sorted(_ratios(evidence, first, second), key=lambda ratio: ratio[3].record.time):
        newest[_where(ratio[3].record)] = ratio
    missing = tuple(s for s in (first, second) if not evidence.of(s)) or (first, second)
    missing = tuple(s for s in others if s not in costs) if newest else missing
    if not newest or missing:
        needs = f"{first} and {second} measured in one run in paired rounds: unpaired medians are not judged"
        return [not_measured(statement, missing, "" if newest else needs)]
    return [_decide(statement, ratio, costs, evidence) for ratio in newest.values()]


def _where(record: Record) -> object:
    """What distinguishes one finding from another."""
    r = record
    return r.machine, r.device, r.dtype, r.batch, r.threads, r.compile, r.layout if r.device == "cuda" else ""


def _ratios(evidence: Evidence, first: Subject, second: Subject) -> Iterator[Ratio]:
    """The paired ratios of first to second, whichever of them the run took for its baseline."""
    for placed in evidence.ratios(first, second):
        low, high = _interval(placed)
        yield placed.value, low, high, placed
    for placed in evidence.ratios(second, first):
        low, high = _interval(placed)
        yield 1 / placed.value, 1 / high, 1 / low if low > 0 else math.inf, placed


def _interval(placed: Placed) -> tuple[float, float]:
    low, high = (placed.value if bound is None else bound for bound in (placed.record.lo, placed.record.hi))
    return low, high


def _decide(statement: Statement, ratio: Ratio, costs: dict[Subject, Placed], evidence: Evidence) -> Finding:
    value, low, high, record = ratio
    first, second, *others = statement.subjects
    factor = statement.quantity([1.0, 1.0, *(costs[subject].value for subject in others)])
    where = conditions(record.record)
    sides = [next((p for p in evidence.of(s) if conditions(p.record) == where), None) for s in (first, second)]
    rests = [record, *(side for side in sides if side is not None), *(costs[subject] for subject in others)]
    finding = decide(statement, [[rest] for rest in rests], evidence, (value * factor, low * factor, high * factor))
    r = record.record
    words = [r.device, r.dtype, f"batch {r.batch}", f"{r.threads} threads" if r.threads and r.device == "cpu" else ""]
    words += [f"compile {r.compile}" if r.compile not in ("", "none") else ""]
    under = " ".join(filter(None, words))
    return replace(finding, machine=r.machine, detail=join(under, finding.detail))
