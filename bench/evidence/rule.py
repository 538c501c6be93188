"""The one rule by which a measured value is held against a printed figure, whatever the metric.

1. It prints as the figure does, counted as the suite counts: REPRODUCED. (A figure that was read from a plot, shown
   with its ±: as exactly as it could be read.)
2. Or it does by another recorded convention, which is named, and which gives more than half of the figures that the
   source prints of the family in that table: REPRODUCED. (Of many conventions and few digits some agree by chance.)
3. Or it is within the tolerance of a value that prints so: WITHIN TOLERANCE, with the difference.
4. Otherwise: NOT REPRODUCED, with the difference.

Tolerances: multiply-adds `COUNTING` of the figure, since no source names its counter; accuracies `REPEATED_ACCURACY`
points, since repeated evaluations differ; parameters none, since they are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.evidence.evidence import Evidence, Placed, main_counter
from bench.evidence.finding import Verdict
from bench.models import family_of
from bench.published import COUNTING, REPEATED_ACCURACY, SCALE, Printed, Subject, distinct, most, published

RULE = (
    "prints as published (a figure read from a plot: within its ±), by our convention of counting or by a named one "
    f"that gives more than half of the source's table; else the tolerance is {COUNTING:.0%} for multiply-adds, "
    f"{REPEATED_ACCURACY} points for accuracies and nothing for parameters"
)
"""The rule in words, for people."""


@dataclass(frozen=True)
class Agreement:
    """How a figure agrees with records: the verdict, the records that it rests on, and what is to be said."""

    verdict: Verdict
    rests: tuple[Placed, ...]
    words: str = ""

    @property
    def value(self) -> float:
        return self.rests[0].value


def agreement(figure: Printed, subject: Subject, placed: Sequence[Placed], evidence: Evidence) -> Agreement:
    """By the rule. `placed` are the records of the subject, the suite's own convention and the newest first."""
    ours = placed[0]
    if figure.prints(ours.value):
        return Agreement(Verdict.REPRODUCED, (ours,))
    seen = {ours.record.counter}
    chance = ""
    for other in placed[1:]:
        counter = other.record.counter
        if counter in seen:
            continue  # the newest by each convention
        seen.add(counter)
        given, of = support(figure, subject, counter, evidence)
        if figure.prints(other.value) and most(given, of):
            table = f"{given} of the {of} figures that {figure.repository} prints of {_table(subject)}"
            words = f"by the convention {counter!r}, which gives {table}; ours: {size(figure, ours.value)}"
            return Agreement(Verdict.REPRODUCED, (other, ours), words)
        if figure.prints(other.value):
            chance = chance or f": {counter!r} gives it, but only {given} of the {of} figures of that table"
    near = figure.near(ours.value)
    words = size(figure, ours.value)
    if subject.cost:
        words += chance or ": no convention of ours gives it"
    return Agreement(Verdict.WITHIN_TOLERANCE if near else Verdict.NOT_REPRODUCED, (ours,), words)


def size(figure: Printed, value: float) -> str:
    """`5.5 printed, 5.64 counted (+2.6 %)`."""
    shares = figure.unit in ("%", "points")
    decimals = figure.decimals + (1 if figure.unit == "G" else 2)
    off = (value - figure.value) / SCALE[figure.unit]
    far = f"{off:+.2f} points" if shares else f"{value / figure.value - 1:+.2%}".replace("%", " %")
    ours = f"{value / SCALE[figure.unit]:.{decimals}f} {'measured' if shares else 'counted'}"
    return f"{figure.text} {'read from a plot' if figure.slack else 'printed'}, {ours} ({far})"


def support(figure: Printed, subject: Subject, counter: str, evidence: Evidence) -> tuple[int, int]:
    """How many figures of the table that a printed one stands in a convention gives, and how many were counted at all.

    The table: what the same source prints of the family, for the same metric, task and head.
    """
    given = of = 0
    for other, figures in published().items():
        if _key(other) != _key(subject):
            continue
        placed = evidence.of(other)
        printed = distinct(f for f in figures if f.repository == figure.repository)
        if not printed or not placed or not main_counter(placed[0].record):
            continue
        of += 1
        by = next((p for p in placed if p.record.counter == counter), None)
        given += by is not None and printed[0].prints(by.value)
    return given, of


def _key(subject: Subject) -> tuple[str, ...]:
    return family_of(subject.model).name, subject.metric, subject.task, subject.head


def _table(subject: Subject) -> str:
    return f"{family_of(subject.model).name}{f' with {subject.head}' if subject.head else ''}"
