"""Worker processes: what they report arrives, and what happens to one of them costs only the job under way."""

from __future__ import annotations

import contextlib
import sys
import time

import psutil
import pytest

from bench.cli import BadInput
from bench.engine.job import COST, Job, Settings
from bench.engine.runner import run
from bench.records.record import Record
from tests.bench.processes import all_end, workers_of

MODELS = ["moganet_l", "overlock_s", "moganet_xl", "overlock_b", "moganet_b", "overlock_t"]


def cost_job(model: str) -> Job:
    settings = Settings(device="cpu", batch=1)
    return Job(
        kind=COST, model=model, form="deploy", resolution=(64, 64), metrics=("params", "macs"), settings=settings
    )


def test_a_fresh_process_takes_the_jobs_of_a_killed_one() -> None:
    jobs = [cost_job(model) for model in MODELS]
    done: list[Job] = []
    records: list[Record] = []
    for message in run([jobs], 1):
        if isinstance(message, Record):
            records.append(message)
        elif isinstance(message, Job):
            done.append(message)
            if len(done) == 1:
                (worker,) = workers_of()
                worker.kill()
    assert done == jobs
    asked = [(r.model, r.metric) for r in records if r.metric in ("params", "macs")]
    assert sorted(asked) == sorted((m, k) for m in MODELS for k in ("params", "macs"))
    failed = [r for r in records if r.value is None]
    assert len({r.model for r in failed}) == 1
    assert all("SIGKILL" in r.reasons[0] and not r.valid for r in failed)


def test_stopping_early_leaves_no_process() -> None:
    running = run([[cost_job("moganet_l")], [cost_job("moganet_xl")]], 1)
    next(running)
    left = workers_of()
    assert left
    running.close()  # type: ignore[attr-defined]
    assert all_end(left)


def test_bad_input_that_a_worker_finds_is_raised() -> None:
    with pytest.raises(BadInput, match="overlock_t"):
        list(run([[]], 1, {"models": ["overlok_t"], "settings": vars(Settings())}))


def test_a_worker_that_cannot_start_is_bad_input_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(BadInput, match="code 1"):
        list(run([[]], 1, {"models": [], "settings": vars(Settings())}))


LONG = """
from bench.engine.job import Job, Settings
from bench.engine.runner import run
settings = Settings(device="cpu", batch=64, layout="channels_last")
job = Job(
    kind="memory", model="overlock_b", form="train", resolution=(512, 512), metrics=("memory",),
    settings=settings,
)
list(run([[job]], 1))
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
