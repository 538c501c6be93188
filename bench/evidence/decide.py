"""The verdict on a statement from the records that it rests on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from bench.evidence.evidence import Evidence, Placed
from bench.evidence.finding import Finding, Verdict
from bench.evidence.rule import agreement
from bench.evidence.statement import Statement
from bench.published import Subject, distinct


def decide(
    statement: Statement,
    rests: Sequence[Sequence[Placed]],
    evidence: Evidence,
    interval: tuple[float, float, float] | None = None,
) -> Finding:
    """The finding from the records of each subject, the one that counts first.

    `interval` is the quantity with its bounds, where these don't follow from the records' values.
    """
    first = [placed[0] for placed in rests]
    measured = statement.quantity([placed.value for placed in first]) if interval is None else interval[0]
    bounds = interval[1:] if interval else None
    if statement.noise and bounds is None:
        bounds = measured - statement.noise, measured + statement.noise
    lo, hi = bounds or (measured, measured)
    if not math.isfinite(measured) or math.isnan(lo) or math.isnan(hi):
        return Finding(
            statement, Verdict.NOT_MEASURED, evidence=tuple(first), detail="the records give no finite value"
        )
    finding = Finding(
        statement,
        Verdict.UNDECIDED,
        measured,
        lo if bounds else None,
        hi if bounds else None,
        tuple(first),
        machine=first[0].record.machine if statement.timed else "",
        detail=statement.tolerance,
    )
    if contradicted := contradictions(statement):
        return _contradicted(finding, contradicted, rests[0], evidence)
    if statement.accepted is None:
        return _printed(finding, rests, evidence)
    low, high = statement.accepted
    inside, outside = low <= lo and hi <= high, hi < low or lo > high
    yes, no = (Verdict.YES, Verdict.NO) if statement.question else (Verdict.REPRODUCED, Verdict.REFUTED)
    return replace(finding, verdict=yes if inside else no if outside else Verdict.UNDECIDED)


def _printed(finding: Finding, rests: Sequence[Sequence[Placed]], evidence: Evidence) -> Finding:
    """By the rule; of a difference of counts the quantity itself has to print as published."""
    statement = finding.statement
    figure = statement.like
    if len(rests) > 1:
        assert finding.measured is not None
        verdict = Verdict.REPRODUCED if figure.prints(finding.measured) else Verdict.NOT_REPRODUCED
        return replace(finding, verdict=verdict, detail="counted by our convention")
    agrees = agreement(figure, statement.subjects[0], rests[0], evidence)
    return replace(finding, verdict=agrees.verdict, measured=agrees.value, evidence=agrees.rests, detail=agrees.words)


def _contradicted(finding: Finding, contradicted: str, placed: Sequence[Placed], evidence: Evidence) -> Finding:
    """Which of the contradicting figures the records support."""
    subject = finding.statement.subjects[0]
    which = []
    for figure in distinct(finding.statement.printed):
        agrees = agreement(figure, subject, placed, evidence)
        words = f" ({agrees.words})" if agrees.words else ""
        which.append(f"{figure}: {agrees.verdict.value.lower()}{words}")
    return replace(finding, verdict=Verdict.CONTRADICTORY, detail=join(contradicted, *which))


def not_measured(statement: Statement, missing: tuple[Subject, ...], needs: str = "") -> Finding:
    """What has no records, and what measuring it needs."""
    contradicted = contradictions(statement)
    detail = f"needs {statement.needs or needs or 'records of ' + ', '.join(map(str, missing))}"
    if contradicted:
        return Finding(
            statement, Verdict.CONTRADICTORY, missing=missing, detail=join(contradicted, f"not measured: {detail}")
        )
    return Finding(statement, Verdict.NOT_MEASURED, missing=missing, detail=detail)


def contradictions(statement: Statement) -> str:
    """Who says what, where the sources contradict each other; empty where they don't."""
    figures = distinct(statement.printed)
    if len(figures) < 2:
        return ""
    return "; ".join(f"{f} by {f.source} ({f.protocol})" for f in figures)


def join(*parts: str) -> str:
    return "; ".join(filter(None, parts))
