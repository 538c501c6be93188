"""The verdict on a statement, and what it rests on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import groupby

from bench.evidence.evidence import Evidence, Placed, conditions
from bench.evidence.statement import Statement
from bench.published import SCALE, Printed, Subject, distinct


class Verdict(str, Enum):
    """REPRODUCED prints as published, or lies in the accepted interval. WITHIN ROUNDING is off by less than one unit of
    the last printed digit. UNDECIDED: the measured interval reaches over the border of the accepted one."""

    REPRODUCED = "REPRODUCED"
    WITHIN_ROUNDING = "WITHIN ROUNDING"
    REFUTED = "REFUTED"
    CONTRADICTORY = "CONTRADICTORY SOURCES"
    UNDECIDED = "UNDECIDED"
    NOT_MEASURED = "NOT MEASURED"
    NOT_MEASURABLE = "NOT MEASURABLE"


@dataclass(frozen=True)
class Finding:
    """A statement and its verdict. `measured`, `lo`, `hi` and `difference` are in whole units (parameters, MACs, %)."""

    statement: Statement
    verdict: Verdict
    measured: float | None = None
    lo: float | None = None
    hi: float | None = None
    evidence: tuple[Placed, ...] = ()
    missing: tuple[Subject, ...] = ()
    machine: str = ""  # of timed figures
    detail: str = ""

    @property
    def difference(self) -> float | None:
        """Measured less published (the first of contradicting figures)."""
        if self.measured is None:
            return None
        return self.measured - distinct(self.statement.printed)[0].value

    @property
    def relative(self) -> float | None:
        """The difference as a share of the published value; None where that is 0 or the unit is one of shares."""
        published = distinct(self.statement.printed)[0]
        if self.difference is None or not published.value or published.unit in ("%", "points"):
            return None
        return self.difference / published.value


def judge_all(statements: Iterable[Statement], evidence: Evidence) -> list[Finding]:
    """A finding for each statement; for one about speed, one for each machine and conditions that measured it."""
    return [finding for statement in statements for finding in judge(statement, evidence)]


def judge(statement: Statement, evidence: Evidence) -> list[Finding]:
    """The findings on one statement: never none."""
    if statement.not_measurable:
        contradicted = _contradicted(statement)
        verdict = Verdict.CONTRADICTORY if contradicted else Verdict.NOT_MEASURABLE
        return [Finding(statement, verdict, detail=_join(contradicted, statement.not_measurable))]
    if statement.timed:
        return _timed(statement, evidence)
    rests = [evidence.of(subject) for subject in statement.subjects]
    missing = tuple(s for s, placed in zip(statement.subjects, rests, strict=True) if not placed)
    if missing:
        return [_not_measured(statement, missing)]
    finding = _decide(statement, [placed[0] for placed in rests])
    if len(rests) == 1 and finding.verdict == Verdict.REFUTED:
        finding = _by_another_counter(statement, finding, rests[0])
    return [finding]


def _not_measured(statement: Statement, missing: tuple[Subject, ...]) -> Finding:
    contradicted = _contradicted(statement)
    needs = f"needs {statement.needs or 'records of ' + ', '.join(map(str, missing))}"
    verdict = Verdict.CONTRADICTORY if contradicted else Verdict.NOT_MEASURED
    detail = _join(contradicted, f"not measured: {needs}" if contradicted else needs)
    return Finding(statement, verdict, missing=missing, detail=detail)


def _decide(statement: Statement, rests: Sequence[Placed], bounds: tuple[float, float] | None = None) -> Finding:
    """The finding from one record for each subject. `bounds` is the interval of a noisy quantity."""
    measured = statement.quantity([placed.value for placed in rests])
    lo, hi = bounds or (measured, measured)
    if not math.isfinite(measured) or math.isnan(lo) or math.isnan(hi):
        return Finding(
            statement, Verdict.NOT_MEASURED, evidence=tuple(rests), detail="the records give no finite value"
        )
    contradicted = _contradicted(statement)
    detail = ""
    if contradicted:
        verdict = Verdict.CONTRADICTORY
        which = [f"{f.text} {f.unit}: {_printed(measured, f).value.lower()}" for f in distinct(statement.printed)]
        detail = _join(contradicted, "; ".join(which))
    elif statement.accepted is None:
        figure = distinct(statement.printed)[0]
        verdict = _printed(measured, figure)
        beyond = abs(measured - figure.value) > figure.step / 2 * (1 + 1e-9)
        detail = statement.tolerance if beyond and verdict == Verdict.REPRODUCED else ""
    else:
        low, high = statement.accepted
        inside, outside = low <= lo and hi <= high, hi < low or lo > high
        verdict = Verdict.REPRODUCED if inside else Verdict.REFUTED if outside else Verdict.UNDECIDED
        detail = statement.tolerance
    if any(placed.record.counter for placed in rests) and not detail:
        detail = f"counted by {rests[0].record.counter}"
    return Finding(
        statement,
        verdict,
        measured,
        lo if bounds else None,
        hi if bounds else None,
        tuple(rests),
        machine=rests[0].record.machine if statement.timed else "",
        detail=detail,
    )


def _printed(measured: float, figure: Printed) -> Verdict:
    """Whether a value prints as a figure does."""
    off = abs(measured - figure.value) / (1 + 1e-9)
    if off <= figure.tolerance:
        return Verdict.REPRODUCED
    return Verdict.WITHIN_ROUNDING if off < max(figure.step, figure.tolerance) else Verdict.REFUTED


def _by_another_counter(statement: Statement, refuted: Finding, placed: Sequence[Placed]) -> Finding:
    """The finding under another recorded convention of counting, where one gives the published figure."""
    first = refuted.evidence[0].record
    for other in placed:
        if other.record.counter in ("", first.counter):
            continue
        again = _decide(statement, [other])
        if again.verdict in (Verdict.REPRODUCED, Verdict.WITHIN_ROUNDING):
            scale = SCALE[statement.unit]
            fully = (
                f"{first.counter or 'the full count'} gives {refuted.evidence[0].value / scale:.4g} {statement.unit}"
            )
            detail = f"only by the convention {other.record.counter!r}; {fully}"
            return replace(again, detail=detail, evidence=(other, refuted.evidence[0]))
    return refuted


def _timed(statement: Statement, evidence: Evidence) -> list[Finding]:
    """A finding for each machine, device, dtype and batch, from its newest run that measured all subjects together."""
    timed = [subject for subject in statement.subjects if subject.timed]
    counted = [subject for subject in statement.subjects if not subject.timed]
    costs = {subject: rests[0] for subject in counted if (rests := evidence.of(subject))}
    runs: dict[object, dict[Subject, Placed]] = {}
    for subject in timed:
        for placed in evidence.of(subject):
            runs.setdefault(conditions(placed.record), {}).setdefault(subject, placed)
    complete = [run | costs for run in runs.values() if len(run) == len(timed)]
    if not complete or len(costs) < len(counted):
        have = set().union(*(run.keys() for run in runs.values())) | costs.keys() if runs else costs.keys()
        missing = tuple(s for s in statement.subjects if s not in have) or tuple(timed)
        finding = _not_measured(statement, missing)
        if runs and not complete:
            together = " and ".join(map(str, timed))
            finding = replace(finding, detail=f"needs {statement.needs or together + ' measured in one run'}")
        return [finding]
    newest: dict[tuple[object, ...], dict[Subject, Placed]] = {}
    first = timed[0]
    for run in sorted(complete, key=lambda run: run[first].record.time):
        r = run[first].record
        newest[r.machine, r.device, r.dtype, r.batch] = run
    return [_decide_timed(statement, run, evidence) for run in newest.values()]


def _decide_timed(statement: Statement, run: dict[Subject, Placed], evidence: Evidence) -> Finding:
    """By the ratio that the run measured in pairs, where it did; else by the medians and their bounds."""
    rests = [run[subject] for subject in statement.subjects]
    first, second, *others = statement.subjects
    where = conditions(rests[0].record)
    paired = [r for r in evidence.ratios(first, second) if conditions(r.record) == where]
    if paired and statement.combine == "product" and statement.factors[:2] == (1, -1):
        factor = statement.quantity([1.0, 1.0, *(run[subject].value for subject in others)])
        record = paired[0].record
        low, high = (paired[0].value if bound is None else bound for bound in (record.lo, record.hi))
        finding = _decide(statement, rests, (low * factor, high * factor))
        if finding.measured is not None and math.isfinite(factor):
            finding = replace(finding, measured=paired[0].value * factor, evidence=(paired[0], *rests))
    else:
        finding = _decide(statement, rests, _bounds(statement, rests))
    r = rests[0].record
    return replace(finding, detail=_join(f"{r.device} {r.dtype} batch {r.batch}", finding.detail))


def _bounds(statement: Statement, rests: Sequence[Placed]) -> tuple[float, float]:
    """The quantity at the ends of its terms' spreads that make it smallest and largest."""
    ends = []
    for placed, factor in zip(rests, statement.factors, strict=True):
        r = placed.record
        low, high = (placed.value if bound is None else bound for bound in (r.lo, r.hi))
        ends.append((low, high) if factor > 0 else (high, low))
    return statement.quantity([low for low, _ in ends]), statement.quantity([high for _, high in ends])


def _contradicted(statement: Statement) -> str:
    """Who says what, where the sources contradict each other; empty where they don't."""
    figures = distinct(statement.printed)
    if len(figures) < 2:
        return ""
    return "; ".join(f"{f.text} {f.unit} by {f.source} ({f.protocol})" for f in figures)


def _join(*parts: str) -> str:
    return "; ".join(filter(None, parts))


def count(findings: Iterable[Finding]) -> dict[Verdict, int]:
    """How many findings have each verdict, in the verdicts' order."""
    ordered = sorted(findings, key=lambda f: list(Verdict).index(f.verdict))
    return {verdict: len(list(same)) for verdict, same in groupby(ordered, key=lambda f: f.verdict)}
