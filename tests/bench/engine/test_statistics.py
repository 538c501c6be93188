"""The statistics on simulated machines: drift, two modes, outliers. Seeds are fixed, so counts are exact per seed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from bench.engine.statistics import (
    Ratio,
    interval_of_median,
    odd_round,
    ratio_of_rounds,
    rounds_needed,
    smallest_visible,
    summarise,
    t_quantile,
)

RUNS = 2000
Noise = np.random.Generator


def rounds(noise: Noise, kind: str, n: int, effect: float) -> list[float]:
    """Ratios of n paired rounds on a machine with 2 % between processes, with one more trouble."""
    a, b = noise.normal(0, 0.02, n), noise.normal(0, 0.02, n)
    if kind == "drift":  # 20 % over the run: both sides of a round meet it alike
        drift = np.linspace(0, 0.2, n)
        a, b = a + drift, b + drift
    elif kind == "bimodal":  # three processes in ten are 6 % slower
        a, b = a + 0.06 * (noise.random(n) < 0.3), b + 0.06 * (noise.random(n) < 0.3)
    elif kind == "outlier":  # one process of a run takes twice as long
        a[noise.integers(n)] += math.log(2)
    return [float(x) for x in np.exp(b - a - math.log1p(effect))]


def excludes_one(ratio: Ratio) -> bool:
    return not ratio.lo <= 1.0 <= ratio.hi


@pytest.mark.parametrize("kind", ["steady", "drift", "bimodal", "outlier"])
@pytest.mark.parametrize("n", [5, 12])
def test_false_alarms_are_as_rare_as_promised(kind: str, n: int) -> None:
    """The 95 % interval leaves out the truth in 5 % of runs: of 2000 at most 6.5 % (3 standard errors)."""
    noise = np.random.default_rng(7)
    wrong = sum(excludes_one(ratio_of_rounds(rounds(noise, kind, n, 0.0))) for _ in range(RUNS))
    assert wrong <= 0.065 * RUNS


@pytest.mark.parametrize("kind", ["steady", "drift"])
def test_five_per_cent_is_seen_by_twelve_rounds(kind: str) -> None:
    noise = np.random.default_rng(8)
    seen = sum(ratio_of_rounds(rounds(noise, kind, 12, 0.05)).hi < 1 for _ in range(RUNS))
    assert seen >= 0.98 * RUNS


def test_drift_would_fool_unpaired_rounds() -> None:
    """What pairing is for: all of A, then all of B, on a machine that drifts, is a false alarm nearly always."""
    noise = np.random.default_rng(9)
    wrong = 0
    for _ in range(200):
        times = noise.normal(0, 0.02, 24) + np.linspace(0, 0.2, 24)
        wrong += excludes_one(ratio_of_rounds([float(x) for x in np.exp(times[12:] - times[:12])]))
    assert wrong >= 190


def test_one_outlier_widens_the_interval_and_does_not_narrow_it() -> None:
    calm = [1.01, 0.99, 1.0, 1.02, 0.98, 1.0]
    assert ratio_of_rounds([*calm[:-1], 2.0]).hi > ratio_of_rounds(calm).hi
    assert not excludes_one(ratio_of_rounds([*calm[:-1], 2.0]))


def test_one_odd_process_is_found_and_two_modes_are_not() -> None:
    calm = [1.0, 1.05, 0.97, 1.0, 1.02]
    assert odd_round([calm, calm]) is None
    assert odd_round([calm, [*calm[:3], 2.5, 1.0]]) == 3
    assert odd_round([[*calm[:3], 2.5, 1.0], [*calm[:3], 2.4, 1.0]]) == 3, "both sides, the same round"
    assert odd_round([[2.5, *calm[1:]], [*calm[:4], 0.5]]) is None, "twice: the machine has two modes"
    assert odd_round([[1.0, 1.0, 3.0]]) is None, "three processes do not tell which one is odd"
    assert odd_round([[1.0, None, 1.0, 3.0, 1.0]]) == 3


def test_an_odd_process_costs_no_power() -> None:
    """5 % planted, one process in each run 2.5 times slower: seen by five rounds nearly as often as without it."""
    noise, seen = np.random.default_rng(12), 0
    for _ in range(500):
        a, b = np.exp(noise.normal(0, 0.01, 5)), np.exp(noise.normal(0, 0.01, 5)) * 1.05
        b[noise.integers(5)] *= 2.5
        odd = odd_round([[float(x) for x in a], [float(x) for x in b]])
        seen += ratio_of_rounds([float(x / y) for r, (x, y) in enumerate(zip(a, b, strict=True)) if r != odd]).hi < 1
    assert seen >= 0.9 * 500


def test_ratio_is_students_interval_on_logarithms() -> None:
    ratios = [1.1, 1.2, 1.05, 1.15]
    found = ratio_of_rounds(ratios)
    logs = np.log(ratios)
    lo, hi = stats.t.interval(0.95, 3, loc=logs.mean(), scale=stats.sem(logs))
    np.testing.assert_allclose((found.lo, found.hi), np.exp((lo, hi)), rtol=1e-9)
    np.testing.assert_allclose(found.value, stats.gmean(ratios), rtol=1e-12)
    inverse = ratio_of_rounds([1 / r for r in ratios])  # it does not matter which side is the baseline
    np.testing.assert_allclose((inverse.lo, inverse.hi), (1 / found.hi, 1 / found.lo), rtol=1e-9)


def test_a_single_round_claims_nothing() -> None:
    found = ratio_of_rounds([3.0])
    assert (found.lo, found.hi) == (0.0, math.inf)
    assert not excludes_one(found)
    assert math.isinf(found.smallest_visible)


def test_the_smallest_visible_difference_is_seen_nine_times_in_ten() -> None:
    """Tolerance: 2000 runs know a share of 90 % to 2 %; the formula is an approximation of the noncentral t."""
    deviation, n = 0.02 * math.sqrt(2), 8
    noise, effect = np.random.default_rng(10), smallest_visible(deviation, n)
    seen = sum(ratio_of_rounds(rounds(noise, "steady", n, effect)).hi < 1 for _ in range(RUNS))
    assert 0.86 * RUNS <= seen <= 0.95 * RUNS


@pytest.mark.parametrize("n", [6, 9, 20])
def test_interval_of_the_median_holds_it(n: int) -> None:
    """At least 95 % of runs by construction, on a skewed distribution too."""
    noise = np.random.default_rng(11)
    held = 0
    for _ in range(RUNS):
        found = interval_of_median([float(x) for x in noise.exponential(1, n)])
        held += found.lo <= math.log(2) <= found.hi
    assert held >= 0.935 * RUNS


def test_few_processes_give_their_range() -> None:
    found = interval_of_median([3.0, 1.0, 2.0])
    assert (found.lo, found.median, found.hi, found.n) == (1.0, 2.0, 3.0, 3)
    assert interval_of_median([5.0]).lo == interval_of_median([5.0]).hi == 5.0


def test_summary_and_quantile() -> None:
    assert summarise([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).median == 3.5
    assert t_quantile(4, 0.975) == pytest.approx(stats.t.ppf(0.975, 4), rel=1e-9)


def test_two_stages_keep_their_coverage() -> None:
    """Stein's interval, simulated: rounds are added until it is narrow, by a spread that no later round changes.

    Stopping at the first narrow interval covers less than it says; this is why there are two stages.
    """
    generator = np.random.default_rng(0)
    trials, precision, cap = 4000, 0.05, 40
    covered = peeking = 0
    for _ in range(trials):
        ratios = [float(x) for x in np.exp(generator.normal(0.0, generator.choice([0.02, 0.05, 0.1]), cap))]
        count = min(cap, rounds_needed(ratios[:4], precision))
        ratio = ratio_of_rounds(ratios[:count], first=4)
        covered += ratio.lo <= 1 <= ratio.hi
        n = 4
        while n < cap and (peek := ratio_of_rounds(ratios[:n])).hi / peek.value > 1 + precision:
            n += 1
        peek = ratio_of_rounds(ratios[:n])
        peeking += peek.lo <= 1 <= peek.hi
    assert 0.945 <= covered / trials <= 0.99  # 95 %; the spread of so many trials is 0.35 %
    assert peeking / trials < 0.94


def test_what_lies_apart_widens_the_interval() -> None:
    ratios = [1.0, 1.1, 0.9]
    plain, apart = ratio_of_rounds(ratios), ratio_of_rounds(ratios, apart=0.2)
    assert math.log(apart.hi / plain.hi) == pytest.approx(0.2)
    assert math.log(plain.lo / apart.lo) == pytest.approx(0.2)
    assert apart.value == plain.value
