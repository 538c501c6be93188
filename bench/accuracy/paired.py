"""Intervals of an accuracy, and of the difference of two on the same images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from bench.accuracy.predictions import EVALUATED, Predictions
from bench.cli import BadInput

Z = NormalDist().inv_cdf(0.975)
MEND = "give predictions that bench.top1 made of the same --data"


def wilson(successes: int, n: int) -> tuple[float, float]:
    """95 % interval of a share by Wilson (1927), as fractions."""
    from scipy.stats import binomtest

    interval = binomtest(successes, n).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p of McNemar's test: an image that only one model gets right is either's by equal chance."""
    from scipy.stats import binomtest

    n = only_first + only_second
    return float(binomtest(only_first, n).pvalue) if n else 1.0


def difference(only_first: int, only_second: int, n: int) -> tuple[float, float]:
    """95 % interval of the difference of two paired shares (first less second), fractions (Agresti and Min, 2005)."""
    b, c, m = only_first + 0.5, only_second + 0.5, n + 2
    centre = (b - c) / m
    half = Z * math.sqrt(max(0.0, (b + c) - (b - c) ** 2 / m)) / m
    return max(-1.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class Comparison:
    """Two models' top-1 on the `n` images that both evaluated.

    `delta`, `lo` and `hi` are percentage points, first less second; `agree` the share of equal predictions.
    """

    first: str
    second: str
    n: int
    both: int
    only_first: int
    only_second: int
    neither: int
    delta: float
    lo: float
    hi: float
    p: float
    agree: float

    def __str__(self) -> str:
        return (
            f"{self.first} - {self.second}: {self.delta:+.3f} points of top-1 [{self.lo:+.3f}, {self.hi:+.3f}], "
            f"McNemar p = {self.p:.2g} (exact); right: both {self.both}, only the first {self.only_first}, only second "
            f"{self.only_second}, neither {self.neither}; same prediction on {100 * self.agree:.3f} % of {self.n}"
        )


def compare(first: Predictions, second: Predictions) -> Comparison:
    """The paired comparison of two runs on the same images.

    Raises:
        BadInput: if they are of different images.
    """
    names = (label(first), label(second))
    if first.header["manifest"] != second.header["manifest"]:
        raise BadInput(f"{names[0]} and {names[1]} were evaluated on different images: {MEND}")
    if len(first.rows) != len(second.rows):
        raise BadInput(
            f"{names[0]} and {names[1]} have {len(first.rows)} and {len(second.rows)} of the same images: {MEND}"
        )
    both_read = first.evaluated & second.evaluated
    a, b = first.correct(1)[both_read], second.correct(1)[both_read]
    n = int(both_read.sum())
    if n == 0:
        raise BadInput(f"{names[0]} and {names[1]} have no image that both could read: {MEND}")
    only_first, only_second = int((a & ~b).sum()), int((~a & b).sum())
    lo, hi = difference(only_first, only_second, n)
    x, y = first.rows[both_read], second.rows[both_read]
    finite = (x["status"] == EVALUATED) & (y["status"] == EVALUATED)
    return Comparison(
        first=names[0],
        second=names[1],
        n=n,
        both=int((a & b).sum()),
        only_first=only_first,
        only_second=only_second,
        neither=int((~a & ~b).sum()),
        delta=100 * (only_first - only_second) / n,
        lo=100 * lo,
        hi=100 * hi,
        p=mcnemar(only_first, only_second),
        agree=float(np.mean((x["top5"][:, 0] == y["top5"][:, 0]) & finite)),
    )


def label(predictions: Predictions) -> str:
    """Model, form and resolution, as one word each."""
    return " ".join(str(predictions.header[name]) for name in ("model", "form", "resolution"))
