"""Operators are timed as the device runs them, under the flags that their names say; a failure costs a case."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.gpu import operators, timer
from bench.gpu.floors import Rates, Work
from bench.gpu.operators import PATHS, Cases
from bench.gpu.timer import Timed, Timer
from bench.records.record import from_dict
from tests.bench.gpu.tools import Heard

RATES = Rates(1e12, {"float32": 1e12})
WORK = Work(1e6, 1e6)


@pytest.mark.parametrize(("path", "cudnn"), [("torch", True), ("native", False)])
def test_the_gradient_runs_under_the_flags_of_the_forward(path: str, cudnn: bool) -> None:
    x, weight = torch.randn(1, 2, 6, 6), torch.randn(2, 1, 5, 5)
    x.requires_grad_()
    weight.requires_grad_()
    seen: list[tuple[bool, bool]] = []
    x.register_hook(lambda g: seen.append((torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark)))
    d_x, d_weight = PATHS[path](x, weight, torch.ones(1, 2, 6, 6))
    assert (d_x.shape, d_weight.shape) == (x.shape, weight.shape)
    assert seen == [(cudnn, True)], "what runs backward reads the flags again"
    assert not PATHS[path](x, weight, None).requires_grad


def test_the_time_is_that_of_a_graphs_replays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three calls are a graph; a replay is one launch, and the eager time is kept beside it."""
    calls: list[int] = []
    replays: list[int] = []

    def capture(call: Callable[[int], Any], number: int, device: torch.device) -> Callable[[], None]:
        assert number == 3
        return lambda: replays.append(1)

    def clock(call: Callable[[int], Any], number: int, device: torch.device, start: int = 0) -> tuple[float, float]:
        before = len(replays)
        for i in range(start, start + number):
            call(i)
        return number * (0.003 if len(replays) > before else 0.05), 0.0

    monkeypatch.setattr(timer, "captured", capture)
    monkeypatch.setattr(timer, "time_calls", clock)
    timed = Timer("cuda", True, 3)(calls.append)
    assert timed.seconds == pytest.approx(0.001), "one of the three calls of a replay"
    assert timed.eager == pytest.approx(0.05)
    assert not timed.no_graph

    def refuse(*args: Any) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(timer, "captured", refuse)
    timed = Timer("cuda", True, 3)(calls.append)
    assert timed.seconds == timed.eager
    assert timed.no_graph.startswith("operation not permitted")


def attempted(part: Heard, run: Callable[[], Timed]) -> float | None:
    def timed(call: Any, floor: float) -> Timed:
        return run()

    cases = Cases(part, timed, RATES)  # type: ignore[arg-type]
    return cases.attempt("contmix stage 3", "forward", lambda i: None, WORK, backend="fused", resolution="14", batch=1,
                         dtype="float32", layout="channels_last")  # fmt: skip


def test_records_of_an_operator(tmp_path: Path) -> None:
    part = Heard(tmp_path)
    assert attempted(part, lambda: Timed(2e-6, (1e-6, 3e-6), 5e-4)) == 2e-6
    rows = {row["metric"]: row for row in part.told("records")[0]}
    assert {name: row["value"] for name, row in rows.items()} == {
        "operator_time": 2e-6, "operator_time_eager": 5e-4, "over_floor": 2.0
    }  # fmt: skip
    assert "CUDA graph" in rows["operator_time"]["method"]
    assert "CUDA graph" not in rows["operator_time_eager"]["method"]


def test_a_failure_costs_a_case_and_a_lost_device_the_process(tmp_path: Path) -> None:
    part = Heard(tmp_path)

    def fails(error: Exception) -> Callable[[], Timed]:
        def run() -> Timed:
            raise error

        return run

    assert attempted(part, fails(torch.OutOfMemoryError("CUDA out of memory"))) is None
    assert attempted(part, fails(ValueError("no such kernel"))) is None
    with pytest.raises(SystemExit, match="cannot be used any more"):
        attempted(part, fails(RuntimeError("CUDA error: an illegal memory access was encountered")))
    reasons = [rows[0]["reasons"][0] for rows in part.told("records")]
    assert [reason.split(":")[0] for reason in reasons] == ["OOM", "ValueError", "RuntimeError"]


def test_cases_are_counted_and_those_begun_before_are_skipped(tmp_path: Path) -> None:
    part = Heard(tmp_path, skip=2)
    cases = Cases(part, Timer("cpu", True, 1), RATES)
    assert [cases.begin(1.0, "a row") for _ in range(4)] == [False, False, True, True]
    assert part.told("case") == [3, 4]
    assert not part.told("dropped")


def test_the_winners_are_handed_over_after_every_case(tmp_path: Path) -> None:
    part = Heard(tmp_path, device="cpu")
    part.tiny = True
    timed = Timer("cpu", True, 1)
    operators.depthwise(Cases(part, timed, operators.peaks(part, timed)))
    texts = part.told("text")
    assert len(texts) == 4, "two layouts, with and without gradients"
    assert len(texts[-1]) > len(texts[0])
    assert len([from_dict(row) for rows in part.told("records") for row in rows]) >= 20, "the run reads every record"
