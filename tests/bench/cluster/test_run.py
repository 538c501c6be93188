"""A sweep with submitit's own local executor: jobs that end well, are killed, are refused; what a later run does."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from bench.cli import BadInput
from bench.cluster import cell as cells
from bench.cluster import executors
from bench.cluster.executors import GONE, RUNNING, executor
from bench.cluster.grid import Cell, Grid
from bench.cluster.job import Job
from bench.cluster.run import Sweep
from bench.paths import REPOSITORY
from bench.records import store

Make = Callable[..., Sweep]


def grid(**hows: str) -> Grid:
    """A cell for each name, which ends as it says."""
    return Grid(command="compare", cells=[Cell(name, (how, name)) for name, how in hows.items()])


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A sweep with the planted command, in a folder that the next one shares."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))

    def made(planted: Grid, at_once: int = 8, attempts: int = 3, gpus: Sequence[int] = ()) -> Sweep:
        folder = tmp_path / "sweep"
        local = executor(executors.LOCAL, folder / "jobs", {}, at_once, gpus)
        said: list[str] = []
        sweep = Sweep(planted, folder, tmp_path / "results", local, attempts, "tests.bench.cluster.planted")
        sweep.said = said.append
        return sweep

    return made


def values(results: Path) -> list[tuple[str, float | None]]:
    return sorted((record.run, record.value) for record in store.read(results / "planted"))


def test_jobs_end_well_are_killed_stopped_and_refused(make: Make, tmp_path: Path) -> None:
    """Each on its own; what was kept before a kill is kept once, with the environment of its run."""
    sweep = make(grid(a="fine", b="killed", c="stopped", d="refused"))
    sweep.run(seconds=0.1)
    states = {name: cells.state(sweep.folder / "cells" / name) for name in "abcd"}
    assert {name: (state.word, len(state.attempts)) for name, state in states.items()} == {
        "a": ("done", 1),
        "b": ("done", 2),
        "c": ("done", 2),
        "d": ("failed", 1),
    }
    assert states["d"].end is not None
    assert states["d"].end["words"] == "planted: error: no such thing"
    both = [(f"{name}-{i}", float(i)) for name in "abc" for i in (1, 2)]
    assert values(sweep.results) == both
    assert set(store.environments(sweep.results / "planted")) == {run for run, _ in both}
    again = make(sweep.grid)
    again.run(seconds=0.1)
    assert values(sweep.results) == both, "a second run of a sweep that has ended adds nothing"
    assert len(cells.state(sweep.folder / "cells" / "a").attempts) == 1


class Scripted:
    """An executor whose jobs do at once what a function says; the others hang until they are gone."""

    name, most = "scripted", 1000

    def __init__(self, does: Callable[[Job], None]) -> None:
        self.does = does
        self.submitted: list[Job] = []
        self.alive: set[str] = set()

    def submit(self, jobs: Sequence[Job]) -> list[str]:
        for job in jobs:
            self.submitted.append(job)
            self.does(job)
        first = len(self.submitted) - len(jobs)
        return [str(i) for i in range(first, first + len(jobs))]

    def states(self, jobs: Sequence[str]) -> dict[str, str]:
        return {job: RUNNING if job in self.alive else GONE for job in jobs}

    def cancel(self, jobs: Sequence[str]) -> None:
        self.alive -= set(jobs)


def ends(code: int) -> Callable[[Job], None]:
    def does(job: Job) -> None:
        cells.begin(Path(job.folder), {"job": "1"})
        cells.end(Path(job.folder), {"code": code})

    return does


def test_two_hundred_cells(make: Make) -> None:
    sweep = make(grid(**{f"cell{i}": "fine" for i in range(200)}))
    sweep.executor = Scripted(ends(0))
    done: list[None] = []
    sweep.done = lambda: done.append(None)
    sweep.run(seconds=0.0)
    assert len(done) == len(sweep.executor.submitted) == 200


def test_a_cell_that_never_ends_well_is_given_up_and_tried_again_by_the_next_run(make: Make) -> None:
    sweep = make(grid(a="fine"), attempts=2)
    sweep.executor = Scripted(lambda job: cells.begin(Path(job.folder), {"job": "1"}))
    sweep.run(seconds=0.0)
    assert len(sweep.executor.submitted) == 2
    assert cells.state(sweep.folder / "cells" / "a").word == "open"
    later = make(sweep.grid)
    later.executor = Scripted(ends(0))
    later.run(seconds=0.0)
    assert cells.state(sweep.folder / "cells" / "a").word == "done"


def test_a_job_of_an_earlier_run_that_goes_on_is_waited_for_and_not_submitted_twice(make: Make) -> None:
    sweep = make(grid(a="fine"))
    cells.submitted(sweep.folder / "cells" / "a", "7", "scripted")
    scripted = Scripted(ends(0))
    scripted.alive = {"7"}
    asked: list[int] = []

    def states(jobs: Sequence[str]) -> dict[str, str]:
        asked.append(len(jobs))
        if len(asked) == 3:
            ends(0)(Job(str(sweep.folder / "cells" / "a"), "", (), {}))
            scripted.alive.clear()
        return Scripted.states(scripted, jobs)

    scripted.states = states  # type: ignore[method-assign]
    sweep.executor = scripted
    sweep.run(seconds=0.0)
    assert scripted.submitted == []
    assert cells.state(sweep.folder / "cells" / "a").word == "done"


def test_a_job_of_an_earlier_run_keeps_its_gpu_and_is_cancelled_too(make: Make) -> None:
    """That run was killed, say: its jobs here go on by themselves, and Ctrl-C ends them."""
    sweep = make(grid(a="waits", b="waits"), gpus=(0, 1))
    sweep._submitted(sweep.grid.cells[:1])
    later = make(sweep.grid, gpus=(0, 1))
    jobs = list(later.adopted().values())
    assert len(jobs) == 1
    jobs += later._submitted(later.grid.cells[1:]).values()
    places = [later.place(cell) for cell in later.grid.cells]
    try:
        assert [executors._visible(job) for job in jobs] == ["0", "1"]
        deadline = time.time() + 60
        while not all(cells.state(place).attempts for place in places) and time.time() < deadline:
            time.sleep(0.05)
        later.executor.cancel(jobs)
        while later.adopted() and time.time() < deadline:
            time.sleep(0.05)
        assert later.adopted() == {}
    finally:  # where they were not cancelled they end now
        for place in places:
            (place / "go").touch()


def test_records_that_cannot_be_merged_wait_in_their_cell(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the disk of the results is full."""
    sweep = make(grid(a="fine"))

    def full(sources: Sequence[Path], results: Path) -> int:
        raise BadInput("cannot write: No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(store, "merge", full)
        sweep.run(seconds=0.1)
    assert list(sweep.unmerged) == ["a"]
    again = make(sweep.grid)
    again.run(seconds=0.1)
    assert not again.unmerged
    assert values(sweep.results) == [("a-1", 1.0), ("a-2", 2.0)]
    assert os.listdir(sweep.folder / "cells") == ["a"]


DEEP = "[" * 100_000


@pytest.mark.parametrize("name", [cells.END, cells.ATTEMPTS, cells.JOB])
@pytest.mark.parametrize(
    "text", ['{"code": "x"}', '{"code": [], "id": []}', '{"code": 1e999}', '{"code": null}', DEEP, ""]
)
def test_files_of_a_cell_that_say_nothing(name: str, text: str, make: Make) -> None:
    sweep = make(grid(a="fine"))
    place = sweep.folder / "cells" / "a"
    place.mkdir(parents=True)
    (place / name).write_text(text + "\n")
    assert cells.state(place).word in (cells.OPEN, cells.STOPPED)
    assert set(sweep.adopted()) <= set()
    (place / name).unlink()
    (place / name).mkdir()
    assert cells.state(place).word == cells.OPEN
