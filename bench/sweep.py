"""`python -m bench.sweep`: a grid of measurements or evaluations over many machines: a job a cell, resumed, merged."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import cli
from bench.cli import BadInput, Parser
from bench.cluster import cell as cells
from bench.cluster.executors import LOCAL, RUNNING, SLURM, WAITING, Executor, executor
from bench.cluster.grid import Grid, read
from bench.cluster.run import CELLS, JOBS, Sweep
from bench.progress import progress
from bench.render import by_heading

DESCRIPTION = """Run a grid: every combination of models, sizes, dtypes, ... is a cell, and every cell a job on this
machine or on a Slurm cluster, through submitit. Jobs that are stopped are submitted again and go on where they were;
records are merged into results/<machine>/, each once. The same command goes on with what is open."""

EPILOG = """Ctrl-C leaves Slurm's jobs in the queue and ends those of this machine. Exit codes: 0 every cell is done;
2 bad input, or a cell failed or was given up; 3 (--status) cells are open; 130 stopped by Ctrl-C. Grids:
docs/cluster.md."""

CELL_SECONDS = 60.0
COLUMNS = ("cell", "state", "attempts", "job", "host", "seconds", "words")


def parser() -> Parser:
    p = Parser(prog="bench.sweep", description=DESCRIPTION, epilog=EPILOG)
    add = p.add_argument
    add("grid", type=Path, metavar="GRID", help="the TOML file that says what to run")
    add("--executor", choices=(LOCAL, SLURM), default=LOCAL, help="this machine (default), or Slurm")
    add("--folder", type=Path, metavar="DIR", help="where cells are kept, shared by all machines (default: GRID-cells)")
    add("--jobs", type=cli.positive, metavar="N", help="at a time (default: one here, and all that Slurm takes)")
    add("--gpus", nargs="+", type=cli.natural, default=[], metavar="N", help="on this machine: a job on each of these")
    add("--attempts", type=cli.positive, default=3, metavar="N", help="of a cell whose job is stopped (default: 3)")
    add("--results", type=Path, metavar="DIR", help="where records are merged (default: results/)")
    add("--status", action="store_true", help="only show how the cells stand")
    add("--retry", action="store_true", help="run cells that failed once more, after their cause is mended")
    add("--dry-run", action="store_true", help="only show the cells and their commands")
    add("--format", choices=("table", "markdown", "csv"), default="table", help="of the table of cells")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    from bench.records.store import check, machines, results_folder

    grid = read(args.grid)
    folder = args.folder or args.grid.with_name(f"{args.grid.stem}-cells")
    if args.dry_run:
        for cell in grid.cells:
            print(f"{cell.name}: bench.{grid.command} {' '.join(cell.arguments(folder / CELLS / cell.name))}")
        return cli.OK
    results = args.results or results_folder()
    sweep = Sweep(grid, folder, results, _executor(args, grid, folder), args.attempts)
    if args.status:
        rows = table(sweep)
        print(by_heading(rows, args.format, words=2))
        return code_of(rows)
    check(results)
    _make(folder)
    if args.retry:
        for cell in grid.cells:
            if cells.state(sweep.place(cell)).word == cells.FAILED:
                (sweep.place(cell) / cells.END).unlink()
    with progress() as bar:
        sweep.said = bar.say
        sweep.done = lambda: bar.done("cell")
        bar.total({"cell": (len(grid.cells), CELL_SECONDS)})
        bar.begun(f"{len(grid.cells)} cells")
        try:
            sweep.run()
        except KeyboardInterrupt:
            _stopped(args, sweep)
            raise
    rows = table(sweep)
    print(by_heading(rows, args.format, words=2))
    kept = f"what the cells wrote is in {folder / CELLS}"  # trainings have no records
    if any(machines(sweep.place(cell) / cells.RECORDS) for cell in grid.cells):
        kept = f"records are in {results}; python -m bench.report makes one report of all machines"
    print(kept, file=sys.stderr)
    if sweep.unmerged:
        raise BadInput(f"the records of {len(sweep.unmerged)} cells are not merged; the same command tries again")
    return cli.OK if code_of(rows) == cli.OK else cli.BAD_INPUT


def _executor(args: argparse.Namespace, grid: Grid, folder: Path) -> Executor:
    return executor(args.executor, folder / JOBS, grid.executor, args.jobs or 0, args.gpus)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot make {folder}: {error.strerror}; give another --folder") from error


def _stopped(args: argparse.Namespace, sweep: Sweep) -> None:
    """What Ctrl-C leaves."""
    jobs = sweep.adopted()
    if args.executor == LOCAL:
        sweep.executor.cancel(list(jobs.values()))
        sweep.said("stopped; the same command goes on with what is open")
    else:
        sweep.said(f"{len(jobs)} jobs stay in Slurm's queue; --status shows them, and the same command goes on")


def table(sweep: Sweep) -> list[dict[str, Any]]:
    """A row for each cell."""
    jobs = sweep.jobs()
    rows = []
    for cell in sweep.grid.cells:
        state = cells.state(sweep.place(cell))
        job, standing = jobs.get(cell.name, ("", ""))
        word = state.word
        if word in (cells.OPEN, cells.STOPPED) and standing in (WAITING, RUNNING):
            word = standing
        end, begun = state.end or {}, state.attempts[-1] if state.attempts else {}
        rows.append({
            "cell": cell.name,
            "state": word,
            "attempts": len(state.attempts),
            "job": job,
            "host": end.get("host") or begun.get("host", ""),
            "seconds": end.get("seconds"),
            "words": str(end.get("words", ""))[:100],
        })  # fmt: skip
    return rows


def code_of(rows: Sequence[dict[str, Any]]) -> int:
    """The exit code of cells that stand so."""
    words = {row["state"] for row in rows}
    if cells.FAILED in words:
        return cli.BAD_INPUT
    return cli.OK if words <= {cells.DONE} else cli.UNDECIDED


if __name__ == "__main__":
    cli.run("sweep", main)
