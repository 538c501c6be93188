"""Intervals and the paired test against SciPy's and against counting."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from bench.accuracy import predictions as pred
from bench.accuracy.paired import compare, difference, mcnemar, wilson
from bench.accuracy.predictions import Predictions
from bench.cli import BadInput


@pytest.mark.parametrize(("k", "n"), [(0, 7), (3, 7), (7, 7), (42_100, 50_000), (1, 50_000)])
def test_wilson(k: int, n: int) -> None:
    want = binomtest(k, n).proportion_ci(method="wilson")
    assert wilson(k, n) == pytest.approx((want.low, want.high), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (3, 3), (5, 6), (10, 25), (812, 701), (4000, 3000), (0, 2000)])
def test_mcnemar(b: int, c: int) -> None:
    want = min(1.0, 2 * binom.cdf(min(b, c), b + c, 0.5)) if b + c else 1.0
    assert mcnemar(b, c) == pytest.approx(want, rel=1e-9)
    assert mcnemar(b, c) == mcnemar(c, b)


def test_the_difference_interval_covers() -> None:
    """Of simulated pairs, about 95 % of the intervals hold the true difference (4 standard errors of the count)."""
    rng, p, n, trials = np.random.RandomState(0), (0.06, 0.04), 1000, 4000
    counts = rng.multinomial(n, (*p, 1 - sum(p)), size=trials)
    inside = 0
    for b, c, _ in counts.tolist():
        lo, hi = difference(b, c, n)
        inside += lo <= p[0] - p[1] <= hi
    assert inside / trials == pytest.approx(0.95, abs=4 * (0.95 * 0.05 / trials) ** 0.5)


def made(
    name: str, first: list[int], labels: list[int], unreadable: tuple[int, ...] = (), manifest: str = "m"
) -> Predictions:
    rows = np.zeros(len(first), pred.ROW)
    rows["image"], rows["label"] = range(len(first)), labels
    rows["top5"][:, 0] = first
    rows["rank"] = [0 if a == b else 9 for a, b in zip(first, labels, strict=True)]
    rows["status"][list(unreadable)] = pred.UNREADABLE
    return Predictions({"model": name, "form": "deploy", "resolution": "224", "manifest": manifest}, rows)


def test_counts() -> None:
    labels = [1, 1, 1, 1, 1, 1]
    a, b = made("a", [1, 1, 1, 2, 2, 1], labels), made("b", [1, 2, 1, 1, 2, 3], labels, unreadable=(2,))
    c = compare(a, b)
    assert (c.n, c.both, c.only_first, c.only_second, c.neither) == (5, 1, 2, 1, 1)
    assert c.delta == pytest.approx(20.0)
    assert c.agree == pytest.approx(2 / 5)
    back = compare(b, a)
    assert (back.delta, back.lo, back.hi) == pytest.approx((-c.delta, -c.hi, -c.lo))
    assert back.p == c.p == 1.0


def test_other_images_are_refused() -> None:
    with pytest.raises(BadInput, match="different images"):
        compare(made("a", [1], [1]), made("b", [1], [1], manifest="n"))
