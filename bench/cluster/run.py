"""The sweep itself: submit what is open, wait, submit again what was stopped, merge what is done. Imports no torch."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.cli import BadInput
from bench.cluster import cell as cells
from bench.cluster.executors import GONE, Executor
from bench.cluster.grid import Cell, Grid, own
from bench.cluster.job import Job

CELLS = "cells"
JOBS = "jobs"


@dataclass
class Sweep:
    """A sweep in its folder: cells and how they stand, over any number of runs of the command.

    Args:
        grid: what is to be done.
        folder: where cells and jobs' files are.
        results: where records are merged.
        executor: who runs the jobs.
        attempts: of a cell that is stopped, in this run of the command, before it is given up.
        package: where the command is.
        said: is called with what happens, a line each.
        done: is called for each cell that ended.
    """

    grid: Grid
    folder: Path
    results: Path
    executor: Executor
    attempts: int = 3
    package: str = "bench"
    said: Callable[[str], None] = lambda line: print(line, file=sys.stderr)
    done: Callable[[], None] = lambda: None
    tried: Counter[str] = field(default_factory=Counter)  # the attempts of this run of the command, by cell
    unmerged: dict[str, str] = field(default_factory=dict)

    def run(self, seconds: float = 2.0) -> None:
        """Until every cell has ended or was given up; asks for the jobs' states every `seconds`."""
        waiting = self.adopted()
        open_cells = [cell for cell in self.grid.cells if cell.name not in waiting and self._is_open(cell)]
        ended = [cell for cell in self.grid.cells if cell.name not in waiting and cell not in open_cells]
        self._merge(ended)
        for _ in ended:
            self.done()
        while open_cells or waiting:
            room = max(0, self.executor.most - len(waiting))
            now, open_cells = open_cells[:room], open_cells[room:]
            waiting |= self._submitted(now)
            time.sleep(seconds)
            for cell in self._gone(waiting):
                del waiting[cell.name]
                if self._ended(cell):
                    self.done()
                else:
                    open_cells.append(cell)

    def adopted(self) -> dict[str, str]:
        """Cell -> job of the cells whose jobs, of an earlier run of the command, still wait or go on."""
        return {name: job for name, (job, state) in self.jobs().items() if state != GONE}

    def jobs(self) -> dict[str, tuple[str, str]]:
        """Cell -> the job that was last submitted for it, and that job's state."""
        jobs = {cell.name: job for cell in self.grid.cells if (job := cells.job_of(self.place(cell)))}
        states = self.executor.states(list(jobs.values()))
        return {name: (job, states[job]) for name, job in jobs.items()}

    def place(self, cell: Cell) -> Path:
        """A cell's folder."""
        return self.folder / CELLS / cell.name

    def _is_open(self, cell: Cell) -> bool:
        return cells.state(self.place(cell)).word in (cells.OPEN, cells.STOPPED)

    def _submitted(self, now: Sequence[Cell]) -> dict[str, str]:
        """Submit cells; returns the job of each."""
        if not now:
            return {}
        jobs = [self._job(cell) for cell in now]
        names = self.executor.submit(jobs)
        for cell, name in zip(now, names, strict=True):
            self.tried[cell.name] += 1
            try:
                cells.submitted(self.place(cell), name, self.executor.name)
            except (BadInput, OSError) as error:  # a full disk: the job runs, and only a later run could not adopt it
                self.said(f"{cell.name}: {error}")
        return dict(zip((cell.name for cell in now), names, strict=True))

    def _job(self, cell: Cell) -> Job:
        """The work of a cell, with what keeps its records."""
        place = self.place(cell).resolve()
        (place / cells.RECORDS).mkdir(parents=True, exist_ok=True)
        return Job(
            str(place),
            f"{self.package}.{self.grid.command}",
            (*cell.arguments(place), *own(self.grid.command, place)),
            dict(self.grid.torchrun),
        )

    def _gone(self, waiting: dict[str, str]) -> Iterable[Cell]:
        try:
            states = self.executor.states(list(waiting.values()))
        except BadInput as error:  # a controller that is restarted answers again
            self.said(str(error))
            return []
        return [cell for cell in self.grid.cells if cell.name in waiting and states[waiting[cell.name]] == GONE]

    def _ended(self, cell: Cell) -> bool:
        """What is done with a cell whose job is gone; whether that was its last attempt."""
        state = cells.state(self.place(cell))
        if state.word in (cells.DONE, cells.FAILED):
            self._merge([cell])
            if state.word == cells.FAILED:
                assert state.end is not None
                self.said(f"{cell.name}: failed: {state.end.get('words', '')}")
            return True
        why = f"stopped with code {state.end.get('code')}" if state.end else "its job ended without a word"
        if self.tried[cell.name] < self.attempts:
            self.said(f"{cell.name}: {why}; submitted again")
            return False
        self._merge([cell])
        self.said(f"{cell.name}: {why}; given up after {self.attempts} attempts (the same command tries again)")
        return True

    def _merge(self, cells_of: Sequence[Cell]) -> None:
        """Bring cells' records to the others; if that fails, the cells keep them, and a later run brings them."""
        try:
            cells.merge([self.place(cell) for cell in cells_of], self.results)
            for cell in cells_of:
                self.unmerged.pop(cell.name, None)
        except (BadInput, OSError) as error:
            for cell in cells_of:
                self.unmerged[cell.name] = str(error)
                self.said(f"{cell.name}: its records are not merged: {error}")
