"""Verdicts on ratios: the border, the interval, the machine's margin, two occasions compared."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from bench.cli import BadInput
from bench.engine.statistics import Ratio, ratio_of_rounds
from bench.gates import margins
from bench.gates.margins import change_of, judgement, of_machine
from bench.gates.verdict import Judgement, exit_code, render
from bench.machine import calibration
from bench.records import store
from bench.records.record import Record

CALIBRATED = Record(
    model="overlock_t", form="deploy", metric=calibration.SPREAD, value=0.005, unit="fraction", resolution="224"
)


def ratio(value: float, half: float) -> Ratio:
    return Ratio(value, value - half, value + half, 6, (), 2 * half)


@pytest.mark.parametrize(("value", "half"), [(math.nan, 0.0), (math.inf, 0.0), (1.0, math.nan)])
def test_a_ratio_that_is_not_finite_is_invalid(value: float, half: float) -> None:
    judged = judgement("m", "throughput", ratio(value, half), 0.03)
    assert (judged.verdict, exit_code([judged])) == ("INVALID", 2)


@pytest.mark.parametrize(
    ("value", "half", "verdict"),
    [
        (1.00, 0.02, "OK"),
        (0.98, 0.005, "OK"),  # slower, and by less than the margin
        (1.20, 0.02, "OK"),
        (0.95, 0.01, "REGRESSION"),
        (0.95, 0.03, "UNDECIDED"),
        (1.00, 0.04, "UNDECIDED"),
        (0.50, math.inf, "UNDECIDED"),  # a single round tells nothing
    ],
)
def test_the_whole_interval_must_lie_on_one_side_of_the_border(value: float, half: float, verdict: str) -> None:
    found = judgement("m", "throughput", ratio(value, half), 0.03)
    assert found.verdict == verdict
    assert found.cells["speed"] == f"{value:.3f}"
    assert found.cells["smallest visible"]


def test_what_the_verdict_says() -> None:
    assert judgement("m", "throughput", ratio(0.95, 0.01), 0.03).reason == "5.3% more time"
    assert "differences below 8.0% could not be seen" in judgement("m", "throughput", ratio(1, 0.04), 0.03).reason
    assert judgement("m", "throughput", ratio(1.2, 0.04), 0.03).reason == "faster"


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        (["OK"], 0),
        (["OK", "UNDECIDED"], 3),
        (["UNDECIDED", "INVALID"], 2),
        (["INVALID", "REGRESSION", "OK"], 1),
        (["INVALID", "DIFFERS"], 1),
        ([], 2),
    ],
)
def test_exit_codes(verdicts: list[str], code: int) -> None:
    assert exit_code([Judgement("m", "x", verdict) for verdict in verdicts]) == code


@pytest.mark.parametrize("style", ["table", "markdown", "csv", "json"])
def test_tables_show_what_is_not_ok(style: str) -> None:
    rows = [Judgement("good", "x", "OK"), Judgement("bad", "x", "DIFFERS", {"change": "+1"}, "why\nnot")]
    text = render("Gate", rows, style, all_rows=False)
    assert "bad" in text
    assert "why not" in text
    assert ("good" in text) == (style in ("csv", "json"))
    assert "good" in render("Gate", rows, style, all_rows=True)


def test_the_margin_is_the_machines(tmp_path: Path) -> None:
    folder = tmp_path / "here"
    store.append(folder / "records.csv", [CALIBRATED])
    assert of_machine("here", tmp_path) == margins.LEAST
    noisy = Record(**{**CALIBRATED.to_dict(), "value": 0.02, "time": "2026-01-02"})
    store.append(folder / "records.csv", [noisy])
    assert of_machine("here", tmp_path) == pytest.approx(0.06)
    with pytest.raises(BadInput, match=r"machines recorded: here.*bench\.calibrate"):
        of_machine("there", tmp_path)
    for day, spread in (("03", 0.34), ("04", 1e300)):
        wild = Record(**{**CALIBRATED.to_dict(), "value": spread, "time": f"2026-01-{day}"})
        store.append(folder / "records.csv", [wild])
        with pytest.raises(BadInput, match=rf"2026-01-{day} has a spread of .*or give --margin"):
            of_machine("here", tmp_path)


def simulated(generator: np.random.Generator, rounds: int, effect: float, noise: float) -> list[float]:
    return [float(r) for r in np.exp(math.log(effect) + noise * generator.standard_normal(rounds))]


@pytest.mark.parametrize(("effect", "expected"), [(1.0, "OK"), (0.95, "REGRESSION"), (0.90, "REGRESSION")])
def test_simulated_rounds_get_the_right_verdict(effect: float, expected: str) -> None:
    """12 rounds of 1 % noise between processes, as `bench.engine` sees on a quiet machine."""
    generator = np.random.default_rng(0)
    found = [judgement("", "", ratio_of_rounds(simulated(generator, 12, effect, 0.01)), 0.03) for _ in range(200)]
    wrong = {"OK": "REGRESSION", "REGRESSION": "OK"}[expected]
    assert sum(j.verdict == wrong for j in found) == 0
    assert sum(j.verdict == expected for j in found) >= 180


def test_two_occasions_are_compared_by_both_spreads() -> None:
    generator = np.random.default_rng(1)
    inside = 0
    for _ in range(300):
        now, before = simulated(generator, 6, 0.9 * 1.7, 0.01), simulated(generator, 9, 1.7, 0.02)
        change = change_of(now, before)
        inside += change.lo <= 0.9 <= change.hi
    assert inside >= 0.91 * 300  # a 95 % interval
    assert change_of([1.5], [1.5, 1.6]).hi == math.inf
    assert change_of([2.0, 2.0], [2.0, 2.0]).value == 1.0
