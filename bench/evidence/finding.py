"""What the records say of a statement: its verdict, or the answer to a question."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from bench.evidence.evidence import Placed
from bench.evidence.statement import Statement
from bench.published import Subject


class Verdict(str, Enum):
    """Of a printed figure REPRODUCED, WITHIN TOLERANCE or NOT REPRODUCED, by the one rule (`bench.evidence.rule`).

    Of a relation REPRODUCED or REFUTED: within its accepted interval, or outside; UNDECIDED where the measured interval
    reaches over the border. NOT JUDGED: its premise fails. A question, which nobody stated, is answered YES or NO.
    """

    REPRODUCED = "REPRODUCED"
    WITHIN_TOLERANCE = "WITHIN TOLERANCE"
    NOT_REPRODUCED = "NOT REPRODUCED"
    REFUTED = "REFUTED"
    CONTRADICTORY = "CONTRADICTORY SOURCES"
    YES = "YES"
    NO = "NO"
    UNDECIDED = "UNDECIDED"
    NOT_JUDGED = "NOT JUDGED"
    NOT_MEASURED = "NOT MEASURED"
    NOT_MEASURABLE = "NOT MEASURABLE"


FAILED = (Verdict.NOT_REPRODUCED, Verdict.REFUTED)
"""Verdicts that `bench.claims --check` fails for."""
FOLDED = (Verdict.NOT_MEASURED, Verdict.NOT_MEASURABLE)
"""Verdicts that are only counted, unless everything is asked for."""


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
        """Measured less published (the first of contradicting figures); None where no figure is published."""
        if self.measured is None or not self.statement.printed:
            return None
        return self.measured - self.statement.like.value

    @property
    def relative(self) -> float | None:
        """The difference as a share of the published value; None where that is 0 or the unit is one of shares."""
        published = self.statement.like
        if self.difference is None or not published.value or published.unit in ("%", "points"):
            return None
        return self.difference / published.value

    @property
    def dirty(self) -> bool:
        """Whether it rests on a figure that was measured from a tree with uncommitted changes."""
        return any(placed.record.dirty for placed in self.evidence)
