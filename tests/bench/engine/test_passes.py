"""Counting and passes: what workers answer arrives, and what happens to one of them costs one figure alone."""

from __future__ import annotations

import contextlib
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from bench.cli import BadInput
from bench.engine.check import check as check_here
from bench.engine.passes import Count, check, counting, measured
from bench.engine.request import Request, Settings
from bench.loading import create, resolve
from bench.metrics import COST, MEMORY
from bench.records.record import Record
from tests.bench.processes import all_end, workers_of

HERE = Path(__file__).resolve().parents[1]
MODELS = ["moganet_l", "overlock_s", "moganet_xl", "overlock_b", "moganet_b", "overlock_t"]


def counts(*models: str) -> list[Count]:
    settings = Settings(device="cpu")
    requests = [
        Request(kind=COST, model=model, form="deploy", resolution=(64, 64), settings=settings) for model in models
    ]
    return [(request, metric) for request in requests for metric in ("params", "macs")]


ASKED: dict[str, Any] = {"models": [], "settings": asdict(Settings()), "dtypes": []}


def test_a_fresh_process_takes_the_counts_of_a_killed_one() -> None:
    asked, done = counts(*MODELS), []
    records: list[Record] = []
    with counting([asked], Settings(), ASKED) as (_, counted):
        for request, made in counted:
            done.append(request)
            records += made
            if len(done) == 1:
                (worker,) = workers_of()
                worker.kill()
    assert done == [request for request, _ in asked]
    given = list(dict.fromkeys((r.model, r.metric) for r in records if r.metric in ("params", "macs")))
    assert given == [(request.model, metric) for request, metric in asked]
    (failed,) = (r for r in records if r.value is None)
    assert "SIGKILL" in failed.reasons[0]
    assert not failed.valid


def test_a_process_that_counts_nothing_ends_with_its_check() -> None:
    with counting([[]], Settings(), ASKED) as (checked, counted):
        assert checked["environment"]
        assert not workers_of()
        assert list(counted) == []


def test_a_killed_pass_costs_its_own_figure_alone(tmp_path: Path) -> None:
    settings = Settings(device="cpu", batch=1, layout="channels_last", imports=("planted_models",))
    env = {"PYTHONPATH": str(HERE), "KILLED": str(tmp_path / "killed")}
    killed, well, unknown = (
        Request(kind=MEMORY, model=model, form="deploy", resolution=(32, 32), settings=settings, env=env)
        for model in ("tiny_killed_once", "tiny", "tiny_starved")
    )
    found = [[(r.metric, r.value is not None) for r in made] for _, made in measured([killed, well])]
    assert found == [[("memory", False)], [("memory", True), ("memory_weights", True)]]
    ((request, (starved,)),) = measured([unknown])
    assert request == unknown
    assert starved.out_of_memory
    assert not workers_of()


def test_stopping_early_leaves_no_process() -> None:
    with counting([counts("moganet_l"), counts("moganet_xl")], Settings(), ASKED) as (_, counted):
        next(counted)
        left = workers_of()
        assert left
    assert all_end(left)


def test_bad_input_that_a_worker_finds_is_raised() -> None:
    with pytest.raises(BadInput, match="overlock_t"):
        check(Settings(), {**ASKED, "models": ["overlok_t"]})


def test_a_worker_that_cannot_start_is_bad_input_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(BadInput, match="cannot start measuring: process ended with code 1"):
        check(Settings(), ASKED)


LONG = """
from bench.engine.passes import measured
from bench.engine.request import Request, Settings
settings = Settings(device="cpu", batch=64, layout="channels_last")
list(measured([Request(kind="memory", model="overlock_b", form="train", resolution=(512, 512), settings=settings)]))
"""


def test_a_worker_ends_with_its_parent() -> None:
    """Also when the parent is killed, and while the worker has nothing to write that would fail."""
    parent = psutil.Popen([sys.executable, "-c", LONG])
    while not (workers := workers_of(parent.pid)):
        assert parent.poll() is None
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    try:
        assert all_end(workers)
    finally:
        for worker in workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()


def test_a_checkpoint_of_other_classes_is_refused_with_what_a_command_can_do(tmp_path: Path) -> None:
    path = tmp_path / "ten.pth"
    torch.save(create(resolve("moganet_xt"), num_classes=10).state_dict(), path)
    settings = asdict(Settings(device="cpu", weights={"moganet_xt": str(path)}))
    with pytest.raises(BadInput, match=r"10 classes and the model 1000.* leave --weights out"):
        check_here(["moganet_xt"], settings, ["float32"])
