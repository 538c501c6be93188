"""What a published statement is, as data that a machine can check. Importing this imports no torch and no pandas."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bench.metrics import METRICS

SCALE = {"M": 1e6, "G": 1e9, "%": 1.0, "points": 1.0, "x": 1.0, "": 1.0}
"""Unit as printed -> what the printed number is multiplied by."""

COUNTING = 0.01
"""Share by which counters of multiply-adds differ: some count norms, biases or resizing; no source names its own."""

REPEATED_ACCURACY = 0.03
"""Points by which a repeated evaluation of the same weights may differ: other kernels, another JPEG decoder."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One figure that a statement speaks of, by the fields of the record that would hold it."""

    model: str
    metric: str
    form: str = "deploy"  # empty: any
    resolution: str = "224"  # empty: any
    task: str = "classification"
    head: str = ""  # of a dense model
    variant: str = ""  # of an accuracy's test: "multi-scale and flip"
    weights: str = ""  # file of results/weights.csv, where not the ones that the suite evaluates the model with
    device: str = ""  # "cuda" where the statement is about a GPU

    @property
    def timed(self) -> bool:
        """Whether only figures of one run can be set against each other."""
        return METRICS[self.metric].timed

    @property
    def cost(self) -> bool:
        """Whether it is counted, on any machine and without weights."""
        return METRICS[self.metric].cost

    @property
    def accuracy(self) -> bool:
        """Whether only trained weights and a data set give it."""
        return METRICS[self.metric].accuracy

    def __str__(self) -> str:
        parts = (self.model, self.head, self.form if self.form != "deploy" else "", self.metric)
        where = "" if self.metric == "params" or not self.resolution else f" at {self.resolution}"
        return " ".join(filter(None, parts)) + where


@dataclass(frozen=True)
class Printed:
    """A figure as a source prints it. `slack` is how far off a value read from a plot may be, in its unit."""

    text: str
    unit: str
    source: str
    protocol: str = ""
    slack: float = 0.0

    @property
    def value(self) -> float:
        """In whole units: parameters, MACs, %."""
        return float(self.text) * SCALE[self.unit]

    @property
    def step(self) -> float:
        """One unit of the last printed digit, in whole units."""
        return 10.0 ** -len(self.text.partition(".")[2]) * SCALE[self.unit]

    @property
    def tolerance(self) -> float:
        """What a measured value may differ by and still be this figure, in whole units.

        Half a unit of the last digit; `REPEATED_ACCURACY` at least for an accuracy, `COUNTING` for multiply-adds.
        """
        least = {"%": REPEATED_ACCURACY, "points": REPEATED_ACCURACY, "G": COUNTING * self.value}.get(self.unit, 0.0)
        return max(self.step / 2, least, self.slack * SCALE[self.unit])

    def agrees(self, other: Printed) -> bool:
        """Whether both may be the same number, one of them rounded further, cut off, or read from a plot."""
        return abs(self.value - other.value) <= max(self.tolerance, other.tolerance) * (1 + 1e-9)


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A published statement as a relation between figures.

    The quantity is the sum of the subjects' values times their `factors` (`combine` "sum"), or the product of the
    values to the power of their factors ("product"): one subject with factor 1 is the value itself, factors 1 and -1
    are a difference or a ratio. It holds where the quantity lies within `accepted` (open ends are infinite); where
    `accepted` is None, where it prints as the `printed` figures do.
    """

    id: str
    text: str
    group: str
    subjects: tuple[Subject, ...]
    printed: tuple[Printed, ...]
    combine: str = "sum"
    factors: tuple[int, ...] = (1,)
    accepted: tuple[float, float] | None = None
    tolerance: str = ""  # how `accepted` follows from the statement, in words
    unit: str = ""
    states: str = ""  # what is stated, where it is no figure: "above 1"
    needs: str = ""  # what measuring it takes beside this suite
    not_measurable: str = ""  # why nobody can measure it

    def __post_init__(self) -> None:
        assert len(self.subjects) == len(self.factors), f"{self.id}: a factor for each subject"
        assert self.combine in ("sum", "product"), self.id
        assert self.printed, f"{self.id}: no source"
        assert self.accepted is None or self.tolerance, f"{self.id}: an interval needs its reason"

    @property
    def timed(self) -> bool:
        return any(subject.timed for subject in self.subjects)

    def quantity(self, values: list[float]) -> float:
        """The relation's left side from the subjects' values, in their order."""
        if self.combine == "sum":
            return sum(value * factor for value, factor in zip(values, self.factors, strict=True))
        return math.prod(value**factor for value, factor in zip(values, self.factors, strict=True))

    def published(self) -> str:
        """What is stated: the printed figures, contradicting ones side by side, or words."""
        return self.states or " / ".join(f"{figure.text}{_unit(figure.unit)}" for figure in distinct(self.printed))


def _unit(unit: str) -> str:
    return f" {unit}" if unit else ""


def distinct(figures: tuple[Printed, ...]) -> list[Printed]:
    """The figures that contradict each other: each one that agrees with none before it; sources read by eye come last.

    Of several that agree, the one printed with most digits.
    """
    kept: list[Printed] = []
    for figure in sorted(figures, key=lambda f: (f.slack, f.step)):
        if not any(figure.agrees(other) for other in kept):
            kept.append(figure)
    return kept
