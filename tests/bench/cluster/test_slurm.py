"""Sweeps on a real Slurm of two nodes, both on this machine (tests/slurm/cluster): pytest -m slurm, as root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.cluster import cell as cells
from bench.cluster import executors
from bench.cluster.executors import executor
from bench.cluster.grid import Cell, Grid
from bench.cluster.run import Sweep
from bench.paths import REPOSITORY
from bench.records import store
from tests.bench.cluster.test_run import grid, values

pytestmark = pytest.mark.slurm

CLUSTER = REPOSITORY / "tests" / "slurm" / "cluster"
PARAMETERS = {"timeout_min": 5, "slurm_exclusive": False, "slurm_mem": "100M"}
Make = Callable[..., Sweep]


@pytest.fixture(scope="module")
def slurm() -> Iterator[Path]:
    """A running Slurm, in a folder that munge's own user may enter."""
    if not all(map(shutil.which, ("slurmctld", "slurmd", "munged", "sbatch"))) or os.geteuid() != 0:
        pytest.skip("needs slurm-wlm, munge and root")
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    subprocess.run([CLUSTER, "start", folder], check=True, timeout=60)
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    yield folder
    subprocess.run(["scancel", "--me"], check=False)
    subprocess.run([CLUSTER, "stop", folder], check=True, timeout=60)
    shutil.rmtree(folder, ignore_errors=True)
    del os.environ["SLURM_CONF"]


@pytest.fixture
def make(slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.chdir(REPOSITORY)

    def made(planted: Grid, at_once: int = 0, results: Path | None = None) -> Sweep:
        folder = tmp_path / "sweep"
        queue = executor(executors.SLURM, folder / "jobs", PARAMETERS, at_once, [])
        return Sweep(planted, folder, results or tmp_path / "results", queue, 3, "tests.bench.cluster.planted")

    return made


def running(sweep: Sweep) -> threading.Thread:
    """The sweep, going on beside the test."""
    thread = threading.Thread(target=sweep.run, kwargs={"seconds": 0.3}, daemon=True)
    thread.start()
    return thread


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def ended(thread: threading.Thread) -> None:
    thread.join(120)
    assert not thread.is_alive()


def host_of(sweep: Sweep, name: str) -> str:
    job = cells.job_of(sweep.folder / "cells" / name)
    command = ["squeue", "--noheader", "--array", f"--jobs={job}", "--format=%N"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def at_once(job: str) -> None:
    """Have a job that was requeued begin: Slurm itself waits for two minutes."""

    def said(*command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    until(lambda: "PENDING" in said("squeue", "--noheader", f"--jobs={job}", "--format=%T"))
    subprocess.run(["scontrol", "update", f"jobid={job}", "StartTime=now"], check=True)


def test_a_job_that_is_killed_goes_on(make: Make) -> None:
    sweep = make(grid(a="fine", b="killed", c="refused"))
    sweep.run(seconds=0.3)
    states = {name: cells.state(sweep.folder / "cells" / name) for name in "abc"}
    assert {name: state.word for name, state in states.items()} == {"a": "done", "b": "done", "c": "failed"}
    assert len(states["b"].attempts) == 2
    assert values(sweep.results) == [("a-1", 1.0), ("a-2", 2.0), ("b-1", 1.0), ("b-2", 2.0)]


def test_a_job_that_is_cancelled_by_somebody_is_submitted_again(make: Make) -> None:
    sweep = make(grid(a="waits"))
    thread = running(sweep)
    until(lambda: store.machines(sweep.folder / "cells" / "a" / "records"))
    subprocess.run(["scancel", cells.job_of(sweep.folder / "cells" / "a")], check=True)
    ended(thread)
    assert cells.state(sweep.folder / "cells" / "a").word == "done"
    assert values(sweep.results) == [("a-1", 1.0), ("a-2", 2.0)]


def test_a_job_that_is_preempted_is_begun_again_by_slurm(make: Make) -> None:
    """`scontrol requeue` is what a partition with PreemptMode=REQUEUE does: the job keeps its number."""
    sweep = make(grid(a="waits"))
    thread = running(sweep)
    until(lambda: store.machines(sweep.folder / "cells" / "a" / "records"))
    job = cells.job_of(sweep.folder / "cells" / "a")
    subprocess.run(["scontrol", "requeue", job], check=True)
    at_once(job)
    ended(thread)
    state = cells.state(sweep.folder / "cells" / "a")
    assert (state.word, len(state.attempts)) == ("done", 2)
    assert cells.job_of(sweep.folder / "cells" / "a") == job
    assert values(sweep.results) == [("a-1", 1.0), ("a-2", 2.0)]


def test_a_node_that_is_drained_and_lost(make: Make, slurm: Path) -> None:
    """Drained, it takes no further job; down, its job is begun again on the other one."""
    sweep = make(grid(a="waits"))
    thread = running(sweep)
    until(lambda: store.machines(sweep.folder / "cells" / "a" / "records"))
    node = host_of(sweep, "a")
    subprocess.run(["scontrol", "update", f"node={node}", "state=drain", "reason=test"], check=True)
    time.sleep(1)
    assert thread.is_alive(), "a job on a node that is drained goes on"
    subprocess.run(["scontrol", "update", f"node={node}", "state=down", "reason=test"], check=True)
    try:
        at_once(cells.job_of(sweep.folder / "cells" / "a"))
        ended(thread)
        assert cells.state(sweep.folder / "cells" / "a").word == "done"
        assert values(sweep.results) == [("a-1", 1.0), ("a-2", 2.0)]
    finally:
        subprocess.run(["scontrol", "update", f"node={node}", "state=resume"], check=True)
        until(lambda: "idle" in subprocess.run(["sinfo", "-hN", "-n", node], capture_output=True, text=True).stdout)


def filled(path: Path) -> None:
    """Write until the disk is full."""
    with path.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 512)


def test_a_full_disk_loses_no_record(make: Make, tmp_path: Path) -> None:
    """The disk of the results is full; when there is room, the same command brings what the cells kept."""
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], check=True)
    try:
        sweep = make(grid(a="fine"), results=small / "results")
        with pytest.raises(OSError, match="No space"):
            filled(small / "fill")
        sweep.run(seconds=0.3)
        assert list(sweep.unmerged) == ["a"]
        (small / "fill").unlink()
        again = make(sweep.grid, results=small / "results")
        again.run(seconds=0.3)
        assert not again.unmerged
        assert values(small / "results") == [("a-1", 1.0), ("a-2", 2.0)]
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_two_hundred_cells(make: Make) -> None:
    """Two sweeps' controllers at once, on the same cells' results: each record is there once."""
    names = {f"cell{i}": "fine" for i in range(200)}
    sweep = make(grid(**names))
    sweep.run(seconds=1.0)
    assert all(cells.state(sweep.folder / "cells" / name).word == "done" for name in names)
    writers = [threading.Thread(target=lambda: make(sweep.grid).run(seconds=0.1)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert values(sweep.results) == sorted((f"{name}-{i}", float(i)) for name in names for i in (1, 2))


@pytest.mark.slow
def test_a_real_measurement_by_the_command(slurm: Path, tmp_path: Path) -> None:
    path = tmp_path / "real.toml"
    path.write_text(
        '[options]\nmetrics = ["params", "memory"]\nbatch-sizes = [2]\nthreads = 1\n[grid]\nmodels = ["resnet10t"]\n'
        "resolutions = [64, 96]\n[executor]\nslurm_exclusive = false\n"
    )
    command = [sys.executable, "-m", "bench.sweep", str(path), "--executor", "slurm", "--results", str(tmp_path / "r")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    (machine,) = store.machines(tmp_path / "r")
    assert {r.resolution for r in store.read(machine) if r.metric == "memory"} == {"64", "96"}


def test_processes_of_torchrun_in_a_job(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes on one node, and one on each of two, find each other."""
    for nodes, each in ((1, 2), (2, 1)):
        monkeypatch.setitem(PARAMETERS, "nodes", nodes)
        planted = Grid(
            command="ranks",
            cells=[Cell(f"on{nodes}", ("{cell}/ranks",))],
            torchrun={"nproc-per-node": each},
        )
        sweep = make(planted)
        sweep.run(seconds=0.5)
        place = sweep.folder / "cells" / f"on{nodes}"
        assert cells.state(place).word == "done", (place / "log.txt").read_text()
        assert sorted(path.name for path in place.glob("ranks*")) == ["ranks0of2", "ranks1of2"]
