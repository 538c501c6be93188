"""Summaries of repeated measurements: medians with intervals, and ratios of paired rounds.

The replicate is the process: blocks of one process are summed up first, and intervals are over processes. A ratio is
the geometric mean of the rounds' ratios, with Student's interval on the mean logarithm: what all sides of a round share
(a slow spell of the machine) cancels, and what differs between processes widens the interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

CONFIDENCE = 0.95
POWER = 0.9

ODD, LEAST_FOR_ODD = 1.3, 4
"""A process is odd if it is so many times slower or quicker than the median of its side's, of four or more."""


@dataclass(frozen=True)
class Summary:
    """Median of `n` samples, bounded as the function that made it says."""

    median: float
    lo: float
    hi: float
    n: int


@dataclass(frozen=True)
class Ratio:
    """Geometric mean of `n` rounds' ratios with its 95 % interval.

    `smallest_visible` is the relative difference that so many rounds of such spread tell from none nine times in ten.
    With a single round there is no spread to judge: the interval is infinite.
    """

    value: float
    lo: float
    hi: float
    n: int
    samples: tuple[float, ...]
    smallest_visible: float


def summarise(samples: Sequence[float]) -> Summary:
    """Median of at least one sample, with the 20th and 80th percentile."""
    assert samples, "nothing to summarise"
    lo, middle, hi = (float(q) for q in np.percentile(np.asarray(samples, dtype=np.float64), (20, 50, 80)))
    return Summary(middle, lo, hi, len(samples))


def interval_of_median(samples: Sequence[float]) -> Summary:
    """Median of processes' figures with an interval of at least 95 % where there are enough of them.

    The interval is between order statistics, without an assumption on the distribution (binomial). Five samples and
    fewer cannot reach 95 %: then it is their whole range.
    """
    from scipy.stats import binom

    assert samples, "nothing to summarise"
    ordered = sorted(samples)
    n = len(ordered)
    k = max(1, int(binom.ppf((1 - CONFIDENCE) / 2, n, 0.5)))  # so rarely is the median below the k-th smallest
    return Summary(median(ordered), ordered[k - 1], ordered[n - k], n)


def error_of_median(samples: Sequence[float]) -> float:
    """About the standard error of the median of two samples or more, by their quartiles: some wild ones don't count."""
    low, high = (float(q) for q in np.percentile(np.asarray(samples, dtype=np.float64), (25, 75)))
    return (high - low) / math.sqrt(len(samples))


def ratio_of_rounds(ratios: Sequence[float], first: int = 0, apart: float = 0.0) -> Ratio:
    """The mean of paired rounds' ratios (each positive), on the logarithmic scale.

    Where the spread of the `first` rounds decided how many there are, the interval is Stein's (1945), of that spread:
    it holds its coverage however the number was chosen from it. It is never narrower than Student's over all rounds.
    Half its width grows by `apart` (a logarithm): how far something else that is known lies from the mean.
    """
    assert ratios, "no rounds"
    assert all(r > 0 for r in ratios), "ratios are positive"
    logs = np.log(np.asarray(ratios, dtype=np.float64))
    n, mean = len(logs), float(logs.mean())
    if n == 1:
        return Ratio(math.exp(mean), 0.0, math.inf, 1, tuple(ratios), math.inf)
    error = float(logs.std(ddof=1)) / math.sqrt(n)
    half = t_quantile(n - 1, (1 + CONFIDENCE) / 2) * error
    if 1 < first < n:
        stein = float(logs[:first].std(ddof=1)) / math.sqrt(n)
        half = max(half, t_quantile(first - 1, (1 + CONFIDENCE) / 2) * stein)
    half += apart
    visible = smallest_visible(error * math.sqrt(n), n)
    return Ratio(math.exp(mean), _exp(mean - half), _exp(mean + half), n, tuple(map(float, ratios)), visible)


def rounds_needed(ratios: Sequence[float], precision: float) -> int:
    """How many rounds make the interval of a ratio as narrow as asked, by the spread of these (Stein's first stage)."""
    n = len(ratios)
    if n < 2:
        return n
    deviation = float(np.log(np.asarray(ratios, dtype=np.float64)).std(ddof=1))
    half = t_quantile(n - 1, (1 + CONFIDENCE) / 2) * deviation
    return max(n, math.ceil((half / math.log1p(precision)) ** 2))


def odd_round(sides: Sequence[Sequence[float | None]]) -> int | None:
    """The one round in which a process is far off its side's other ones; None if there is none, or more than one.

    `sides` has each side's figure by round, None where one is missing. Now and then a process is slow for its whole
    life for no reason that its canary sees; one such round would drown the other ones. Where it happens twice the
    machine, or a side, has two modes, and the interval must show them.
    """
    odd: set[int] = set()
    for figures in sides:
        known = [x for x in figures if x is not None]
        if len(known) >= LEAST_FOR_ODD:
            middle = median(known)
            odd |= {r for r, x in enumerate(figures) if x is not None and abs(math.log(x / middle)) > math.log(ODD)}
    return odd.pop() if len(odd) == 1 else None


def smallest_visible(deviation: float, rounds: int) -> float:
    """The relative difference that `rounds` rounds, whose log-ratios deviate so much, tell from none nine in ten."""
    if rounds < 2:
        return math.inf
    quantiles = t_quantile(rounds - 1, (1 + CONFIDENCE) / 2) + t_quantile(rounds - 1, POWER)
    return _exp(quantiles * deviation / math.sqrt(rounds)) - 1


def t_quantile(degrees: int, p: float) -> float:
    """Student's quantile."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, p))


def _exp(x: float) -> float:
    return math.exp(x) if x < 700 else math.inf
