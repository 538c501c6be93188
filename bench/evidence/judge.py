"""Statements and evidence to findings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from bench.evidence.decide import contradictions, decide, join, not_measured
from bench.evidence.evidence import Evidence, Placed
from bench.evidence.finding import Finding, Verdict
from bench.evidence.statement import Premise, Statement
from bench.evidence.timed import judge_timed
from bench.published import SCALE


def judge_all(statements: Iterable[Statement], evidence: Evidence) -> list[Finding]:
    """A finding for each statement; for one about speed, one for each machine and conditions that measured it."""
    return [finding for statement in statements for finding in judge(statement, evidence)]


def judge(statement: Statement, evidence: Evidence) -> list[Finding]:
    """The findings on one statement: never none. A statement whose premise fails is not judged."""
    if statement.not_measurable:
        contradicted = contradictions(statement)
        verdict = Verdict.CONTRADICTORY if contradicted else Verdict.NOT_MEASURABLE
        return [Finding(statement, verdict, detail=join(contradicted, statement.not_measurable))]
    grounds: list[str] = []
    for premise in statement.premises:
        rests = [evidence.of(subject) for subject in premise.subjects]
        if missing := tuple(s for s, placed in zip(premise.subjects, rests, strict=True) if not placed):
            return [not_measured(statement, missing)]
        first, second = (placed[0] for placed in rests)
        words = _against(premise, first, second)
        if not first.value < second.value:
            fails = f"the premise fails: {premise.text}, but {words}"
            return [Finding(statement, Verdict.NOT_JUDGED, evidence=(first, second), detail=fails)]
        grounds.append(words)
    findings = judge_timed(statement, evidence) if statement.timed else [_judge(statement, evidence)]
    return [f if f.measured is None else replace(f, detail=join(f.detail, *grounds)) for f in findings]


def _judge(statement: Statement, evidence: Evidence) -> Finding:
    rests = [evidence.of(subject) for subject in statement.subjects]
    missing = tuple(s for s, placed in zip(statement.subjects, rests, strict=True) if not placed)
    return not_measured(statement, missing) if missing else decide(statement, rests, evidence)


def _against(premise: Premise, first: Placed, second: Placed) -> str:
    """`5.64 G against 15.35 G (0.37 x)`."""
    a, b = (f"{placed.value / SCALE[premise.unit]:.2f} {premise.unit}".rstrip() for placed in (first, second))
    return f"{a} against {b}" + (f" ({first.value / second.value:.2f} x)" if second.value else "")
