"""`python -m bench.validation.runtimes`: models in PyTorch, compiled, in ONNX Runtime and in OpenVINO, in one run.

What a user would pick instead: each model in each runtime that is installed, all interleaved, with the ratio of each to
the last model in PyTorch, and of the models' fastest runtimes. Prints a table, and keeps the records with `--save`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench import cli
from bench.cli import Parser
from bench.engine import runtimes
from bench.engine.plan import QUICK
from bench.engine.request import Request, Settings
from bench.metrics import THROUGHPUT
from bench.models import chosen
from bench.records import store
from bench.render import below, table
from bench.scratch import scratch

if TYPE_CHECKING:
    from bench.engine.outcome import Outcome
    from bench.records.record import Record

MODES = {"PyTorch": "none", "torch.compile": "default", "ONNX Runtime": "onnxruntime", "OpenVINO": "openvino"}


def parser() -> Parser:
    p = Parser(prog="bench.validation.runtimes", description=__doc__)
    add = p.add_argument
    add("--models", nargs="+", default=["overlock_t", "convnext_b"], metavar="MODEL", help="the last is the baseline")
    add("--modes", nargs="+", choices=MODES.values(), default=list(MODES.values()), metavar="MODE",
        help=f"{', '.join(MODES.values())} (default: all)")  # fmt: skip
    add("--resolution", type=cli.resolution, default=(224, 224), metavar="SIZE", help="224 (default), or HxW")
    add("--batch-size", type=cli.positive, default=8, metavar="N", help="8 (default)")
    add("--rounds", type=cli.positive, default=2, metavar="N", help="2 (default)")
    add("--threads", type=cli.positive, metavar="N", help="CPU threads (default: the physical cores available)")
    add("--exports", type=Path, metavar="FOLDER", help="keep the exported files there, and use those that are there")
    add("--save", action="store_true", help="add the records to results/<machine>/records.csv")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    names = [entry.name for entry in chosen(args.models)]
    if args.save:
        store.check()
    for mode in args.modes:
        if mode in runtimes.PACKAGES:
            runtimes.check(mode, "cpu", ["float32"], [THROUGHPUT], "classification")
    with scratch("onnx") as folder:
        if args.exports:
            args.exports.mkdir(parents=True, exist_ok=True)
        return measured(names, args.modes, args.exports or folder, args)


def measured(names: Sequence[str], modes: Sequence[str], exports: Path, args: argparse.Namespace) -> int:
    """Measure, print and save; returns the exit code."""
    from bench.engine import interleaved
    from bench.engine.figures import records_of
    from bench.machine.environment import collect, describe, physical_cores
    from bench.records.record import new_run, stamped

    threads = args.threads or physical_cores()
    settings = Settings(device="cpu", batch=args.batch_size, threads=threads, exports=str(exports))
    environment, run = collect("cpu", threads), new_run()
    sides = [
        Request(
            kind=THROUGHPUT,
            model=name,
            form="deploy",
            resolution=args.resolution,
            settings=replace(settings, compile=mode, layout="channels_first" if mode in runtimes.PACKAGES else "auto"),
            label=f"{name} ({mode})",
        )
        for name in names
        for mode in modes
    ]
    plan = replace(QUICK, rounds=args.rounds)
    *_, outcome = interleaved.measure(sides, plan, lambda what: print(what, file=sys.stderr))
    records = [stamped(r, environment, run) for r in records_of(outcome, [THROUGHPUT], [None] * len(sides))]
    print(text(outcome, records, names, modes, describe(environment)))
    if args.save:
        print(f"kept in {store.save(records, environment)}", file=sys.stderr)
    return cli.OK if any(record.valid for record in records) else cli.BAD_INPUT


def text(outcome: Outcome, records: Sequence[Record], names: Sequence[str], modes: Sequence[str], machine: str) -> str:
    """The table: a row for each mode, images/s of each model, and their ratios to the last one in the same mode."""
    titles, count = {mode: title for title, mode in MODES.items()}, len(modes)
    rows = []
    for j, mode in enumerate(modes):
        own = [records[i * count + j] for i in range(len(names))]
        rows.append([titles[mode], *map(_figure, own), *_ratios(outcome, range(j, len(records), count))])
    best = [_best(records[i * count : (i + 1) * count]) for i in range(len(names))]
    if all(best):
        places = [next(i for i, r in enumerate(records) if r is b) for b in best]
        rows.append(["the fastest of each", *(titles[r.compile] for r in best if r), *_ratios(outcome, places)])
    headings = ["run by", *(f"{name} images/s" for name in names), *(f"{name} / {names[-1]}" for name in names[:-1])]
    notes = [f"{r.model}, {titles[r.compile]}: {'; '.join(r.reasons)}" for r in records if r.reasons]
    first = records[0]
    conditions = f"batch {first.batch}, {first.resolution}, {first.dtype}, {first.threads} threads; {machine}"
    return f"{table(headings, rows, 'markdown', 1)}\n\n{below([conditions, *notes], 'markdown')}"


def _figure(record: Record) -> str:
    return "failed" if record.value is None else f"{record.value:.2f}"


def _ratios(outcome: Outcome, sides: Sequence[int]) -> list[str]:
    """The paired ratios of all sides but the last to that one."""
    found = [outcome.ratio(i, sides[-1]) for i in sides[:-1]]
    return [f"{r.value:.2f} [{r.lo:.2f}, {r.hi:.2f}]" if r else "" for r in found]


def _best(records: Sequence[Record]) -> Record | None:
    """The fastest of a model's valid records."""
    return max((r for r in records if r.valid and r.value), key=lambda r: r.value or 0.0, default=None)


if __name__ == "__main__":
    cli.run("validation.runtimes", main)
