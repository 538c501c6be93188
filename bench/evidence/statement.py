"""What a published statement is, as data that a machine can check. Importing this imports no torch and no pandas."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bench.published import Printed, Subject, distinct


@dataclass(frozen=True, kw_only=True)
class Premise:
    """What must hold for a statement to be about anything: that the first figure is the smaller one."""

    text: str
    subjects: tuple[Subject, Subject]
    unit: str = ""


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A published statement as a relation between figures, or a question that nobody stated an answer to.

    The quantity is the sum of the subjects' values times their `factors` (`combine` "sum"), or the product of the
    values to the power of their factors ("product"): one subject with factor 1 is the value itself, factors 1 and -1
    are a difference or a ratio. It holds where the quantity lies within `accepted` (open ends are infinite); where
    `accepted` is None, where it prints as the `printed` figures do. Without its premises it is not judged.
    """

    id: str
    text: str
    group: str
    subjects: tuple[Subject, ...]
    printed: tuple[Printed, ...] = ()
    premises: tuple[Premise, ...] = ()
    question: bool = False
    combine: str = "sum"
    factors: tuple[int, ...] = (1,)
    accepted: tuple[float, float] | None = None
    tolerance: str = ""  # how `accepted` follows from the statement, in words
    noise: float = 0.0  # by how much the quantity may differ where its figures are measured again
    unit: str = ""
    states: str = ""  # what is stated, where it is no figure: "above 1"
    needs: str = ""  # what measuring it takes beside this suite
    not_measurable: str = ""  # why nobody can measure it

    def __post_init__(self) -> None:
        assert len(self.subjects) == len(self.factors), f"{self.id}: a factor for each subject"
        assert self.combine in ("sum", "product"), self.id
        assert bool(self.printed) != self.question, f"{self.id}: a claim has a source, a question has none"
        assert not self.question or self.accepted, f"{self.id}: what answers the question?"
        assert self.accepted is None or self.tolerance, f"{self.id}: an interval needs its reason"

    @property
    def timed(self) -> bool:
        return any(subject.timed for subject in self.subjects)

    @property
    def in_words(self) -> bool:
        """Whether an author says it in words; neither a printed figure nor a question."""
        return not self.question and not self.group.endswith("figures")

    @property
    def like(self) -> Printed:
        """The figure that a measured value is shown like: the first of those published."""
        return distinct(self.printed)[0] if self.printed else Printed("0", self.unit, "")

    def quantity(self, values: list[float]) -> float:
        """The relation's left side from the subjects' values, in their order; nan where it has none (over 0, say)."""
        if self.combine == "sum":
            return sum(value * factor for value, factor in zip(values, self.factors, strict=True))
        try:
            return math.prod(float(value) ** factor for value, factor in zip(values, self.factors, strict=True))
        except (ZeroDivisionError, OverflowError):
            return math.nan

    def published(self) -> str:
        """What is stated: the printed figures, contradicting ones side by side, or words; nothing by a question."""
        return self.states or " / ".join(map(str, distinct(self.printed)))


def subjects(metric: str, *models: str, **what: str) -> tuple[Subject, ...]:
    """The same figure of several models, in their order."""
    return tuple(Subject(model=model, metric=metric, **what) for model in models)
