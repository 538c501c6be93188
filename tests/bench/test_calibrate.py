"""Calibration, trials and peers: their arithmetic on made-up outcomes, and one real run of each that is quick."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest

from bench import calibrate, gate
from bench.engine.plan import DEFAULT
from bench.engine.request import Settings
from bench.engine.statistics import smallest_visible
from bench.gates import speed_tier
from bench.machine import calibration
from bench.records.record import Record
from bench.validation import peers, trials
from tests.bench.engine.test_interleaved import outcome_of


def calibrated(moves: list[list[float]]) -> dict[str, Record]:
    outcome = outcome_of(moves, limit=math.inf)
    for replicates in outcome.replicates:
        for replicate in replicates:
            assert replicate is not None
            canary = replicate.last["canary"]
            canary |= {"before": {"product": 0.5, "copy": 0.25}, "size": {"product": 10**9, "copy": 10**8}}
    return {record.metric: record for record in calibrate.records_of(outcome)}


def test_calibration_of_a_known_spread() -> None:
    """Side 1 is twice as fast in every round: the deviation from the known ratio of 1 is log 2, without a spread."""
    found = calibrated([[0.01, 0.02, 0.03, 0.10], [0.0, 0.0, 0.0, 0.0]])
    spread, visible = found[calibration.SPREAD], found[calibration.VISIBLE]
    assert spread.value == pytest.approx(math.log(2) / math.sqrt(DEFAULT.rounds))
    assert visible.value == pytest.approx(smallest_visible(math.log(2), DEFAULT.rounds))
    assert len(spread.samples) == 4
    assert spread.against == "tiny deploy"
    canary = found[calibration.CANARY]
    assert canary.value is not None
    assert 0.03 < canary.value < 0.10
    assert canary.n == 8
    assert found["peak_macs"].value == 2e9
    assert found["copy_bandwidth"].value == 4e8
    assert {found[name].model for name in ("peak_macs", "copy_bandwidth")} == {"machine"}


def test_the_canarys_limit_is_widened_and_never_narrowed() -> None:
    found = calibrated([[0.04] * 4, [0.04] * 4])
    assert calibration.canary_limit(found, 0.02) == pytest.approx(0.04)
    assert calibration.canary_limit(found, 0.05) == 0.05
    assert calibration.canary_limit({}, 0.02) == 0.02


def test_what_people_read() -> None:
    assert "not calibrated" in calibration.sentence({})
    text = calibration.sentence(calibrated([[0.0] * 4, [0.0] * 4]))
    assert f"a run of {DEFAULT.rounds} rounds sees" in text


def one_trial(i: int, twin: tuple[float, float], slowed: tuple[float, float]) -> list[Record]:
    """The ratios of one run, by the bounds of their intervals."""
    made = []
    for model, (lo, hi) in ((trials.TWIN, twin), (trials.SLOWED, slowed)):
        ratio = Record(
            model=model, form="deploy", metric="throughput_ratio", value=(lo * hi) ** 0.5, unit="", resolution="224",
            lo=lo, hi=hi, n=5, run=str(i), against="convnext_t deploy", noise=0.1 if i == 3 else None,
        )  # fmt: skip
        made.append(ratio)
    return made


def test_trials_count_false_alarms_and_what_was_seen() -> None:
    level, below, above = (0.98, 1.02), (0.94, 0.96), (1.04, 1.06)
    records = [
        *one_trial(1, level, below),
        *one_trial(2, above, level),
        *one_trial(3, below, above),
        *one_trial(4, level, below),
    ]
    alarms, seen = trials.summary(records)
    assert alarms.startswith("convnext_t_twin: 2 of 4 runs false alarms")
    assert alarms.endswith("valid 4, noisy 1 of 4")
    assert seen.startswith("convnext_t_slowed: 2 of 4 runs seen: the interval is below 1, 3 on the right side")


def test_too_few_rounds_are_refused() -> None:
    command = [sys.executable, "-m", "bench.calibrate", "--rounds", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "4 rounds or more" in done.stderr


class Asked(Exception):
    """What a command was to measure with."""


@pytest.mark.parametrize("way", ["fork", "exec"])
def test_the_way_that_processes_start_is_asked_of_every_command(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def calibration_asked(model: str, resolution: Any, settings: Settings, plan: Any) -> None:
        raise Asked(settings.process)

    def gate_asked(asked: speed_tier.SpeedGate, bar: Any) -> None:
        raise Asked(asked.settings.process)

    monkeypatch.setattr(calibrate, "measured", calibration_asked)
    monkeypatch.setattr(speed_tier, "run", gate_asked)
    for main, arguments in ((calibrate.main, ["--no-save", "--model", "resnet10t"]), (gate.main, ["--speed"])):
        with pytest.raises(Asked, match=way):
            main([*arguments, "--process", way])


@pytest.mark.slow
def test_peers_time_one_model_in_one_process(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model", "resnet10t", "--resolution", "32", "--batch-size", "1", "--threads", "1"]
    assert peers.main([*options, "--rounds", "2", "--seconds", "0.05"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in (peers.OURS, peers.TIMM, peers.TORCH, "harness"))


def test_planted_work_takes_five_per_cent() -> None:
    """By its own clock: from the model's start the slowed call ends 5 % later than the model itself did."""
    import time

    import torch
    from torch import nn

    from bench.validation.planted import Slowed

    class Sleeps(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            begin = time.perf_counter()
            time.sleep(0.1)
            self.took = time.perf_counter() - begin
            return x

    model = Sleeps()
    begin = time.perf_counter()
    Slowed(model, 0.05)(torch.zeros(1))
    assert time.perf_counter() - begin >= 1.05 * model.took
