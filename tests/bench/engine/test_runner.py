"""The runner's memory of an earlier run. What it measures is tested with `bench.compare`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from bench.engine import runner as runner_module
from bench.engine.runner import Runner
from bench.engine.sweep import Point, Row
from bench.profile.breakdown import BYTES
from bench.records.record import Record
from tests.bench.engine.test_sweep import sweep


def test_what_is_known_is_only_of_this_code_and_these_conditions() -> None:
    runner = Runner(sweep("overlock_t", baseline="overlock_t"))
    runner.environment = {"machine": "m", "commit": "c", "libraries": {"torch": "2"}}
    request = runner.sweep.request("throughput", ("overlock_t", "deploy"), Point((224, 224), 4, "float32"))
    known = Record(
        model="overlock_t", form="deploy", metric="throughput", value=1.0, unit="images/s", resolution="224", batch=4,
        dtype="float32", layout="channels_last", compile="none", backend="tiled", threads=1, device="cpu", machine="m",
        torch="2", commit="c", weights="random:0",
    )  # fmt: skip

    def is_known(record: Record) -> bool:
        runner.known = [record]
        return runner._is_known(request, "throughput")

    assert is_known(known)
    others = [{"batch": 8}, {"dtype": "bfloat16"}, {"machine": "n"}, {"commit": "d"}, {"torch": "3"}, {"threads": 2}]
    assert not any(is_known(replace(known, **other)) for other in others)  # type: ignore[arg-type]
    assert not is_known(known.failed("killed by SIGKILL")), "what failed is tried again"


def test_a_pass_runs_in_the_layout_that_was_timed() -> None:
    runner = Runner(sweep("overlock_t", baseline="overlock_t"))
    point = Point((224, 224), 4, "float32")
    request = runner.sweep.request("memory", ("overlock_t", "deploy"), point)
    assert runner._laid_out(request) == request
    timed = runner.sweep.request("throughput", ("overlock_t", "deploy"), point).record("throughput")
    runner.known = [replace(timed, value=1.0, layout="channels_last", backend="tiled", machine="m"),
                    replace(timed, value=1.0, layout="channels_first", dtype="bfloat16")]  # fmt: skip
    assert runner._laid_out(request).settings.layout == "channels_last"
    asked = replace(request, settings=replace(request.settings, layout="channels_first"))
    assert runner._laid_out(asked) == asked


def test_only_memory_is_measured_of_several_models_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Breakdowns are times, and a search for the largest batch takes all memory that is free."""
    passes: list[tuple[str, int]] = []

    def take(self: Runner, kind: str, rows: Sequence[Row], point: Point) -> None:
        passes.append((kind, len(rows)))

    monkeypatch.setattr(runner_module, "physical_cores", lambda: 2)
    monkeypatch.setattr(Runner, "_pass", take)
    asked = sweep("overlock_t", "convnext_b", baseline="convnext_b")
    for metric in ("memory", "largest_batch", BYTES):
        Runner(replace(asked, metrics=[metric]))._measure()
    assert passes == [("memory", 2), *[("largest_batch", 1)] * 2, *[("breakdown", 1)] * 2]
