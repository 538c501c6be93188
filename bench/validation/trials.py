"""`python -m bench.validation.trials --runs 20 --output FILE`: does the method see differences, and only real ones?

Each run is one default `bench.compare` of ConvNeXt-T with its twin and with a copy that is slower by 5 %
(`bench.validation.planted`). It counts how often the 95 % interval of the twin's ratio excludes 1 (false alarms, one in
twenty by design), and how often the interval of the slower copy lies below 1. FILE keeps the records of every run, so
that the counts can be made again: `--summary` only counts.
"""

from __future__ import annotations

import math
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench import cli
from bench.cli import BadInput, Parser
from bench.engine.statistics import Ratio, odd_round, ratio_of_rounds
from bench.records import store
from bench.records.record import Record
from bench.scratch import scratch

TWIN, SLOWED, MODEL = "convnext_t_twin", "convnext_t_slowed", "convnext_t"


def parser() -> Parser:
    p = Parser(prog="bench.validation.trials", description=__doc__)
    p.add_argument("--runs", type=cli.positive, default=20)
    p.add_argument("--batch-size", type=cli.positive, default=2)
    p.add_argument("--output", type=Path, required=True, metavar="FILE", help="records of all runs (CSV)")
    p.add_argument("--under", default="", metavar="COMMAND", help="start each run by this command, such as a lock's")
    p.add_argument("--compare", default="", metavar="OPTIONS", help="further options of bench.compare, such as --quick")
    p.add_argument("--summary", action="store_true", help="measure nothing: count what FILE holds")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if not args.summary:
        for i in range(args.runs):
            begin = time.monotonic()
            records = one_run(args.batch_size, shlex.split(args.under), shlex.split(args.compare))
            store.append(args.output, records)
            ratios = {r.model: r for r in records if r.metric == "throughput_ratio"}
            intervals = ", ".join(f"{name} {r.value:.3f} [{r.lo:.3f}, {r.hi:.3f}]" for name, r in ratios.items())
            print(f"run {i + 1}: {intervals}, {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
    print("\n".join(summary(store.read(args.output))))
    return cli.OK


def one_run(batch: int, under: Sequence[str], options: Sequence[str]) -> list[Record]:
    """The records of one `bench.compare`."""
    with scratch("trial") as folder:
        output = folder / "records.json"
        command = [*under, sys.executable, "-m", "bench.compare", "--import", "bench.validation.planted"]
        command += ["--models", TWIN, SLOWED, MODEL, "--metrics", "throughput", "--batch-size", str(batch)]
        done = subprocess.run(
            [*command, "--output", str(output), *options], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise BadInput(f"a run failed: {done.stderr.strip().splitlines()[-1:]}")
        return store.read(output)


def summary(records: Sequence[Record]) -> list[str]:
    """The counts of false alarms and of differences seen, and the spread of the ratios, made again from the samples."""
    lines = []
    for model, what in ((TWIN, "false alarms: the interval excludes 1"), (SLOWED, "seen: the interval is below 1")):
        ratios = {run: ratio for run, ratio in redone(records, model).items() if ratio is not None}
        if not ratios:
            continue
        values = [ratio.value for ratio in ratios.values()]
        counted = sum(r.hi < 1 or (model == TWIN and r.lo > 1) for r in ratios.values())
        spread = float(np.std(np.log(values), ddof=1)) if len(values) > 1 else math.nan
        middle = math.exp(float(np.mean(np.log(values))))
        valid = sum(r.valid for r in records if r.model == model and r.metric == "throughput_ratio")
        lines.append(
            f"{model}: {counted} of {len(ratios)} runs {what}; mean ratio {middle:.4f}, "
            f"spread of runs {spread:.2%}; valid {valid} of {len(ratios)}"
        )
    return lines


def redone(records: Sequence[Record], model: str) -> dict[str, Ratio | None]:
    """Run -> the ratio of a model, from the rounds that were kept without the odd one."""
    by_run: dict[str, dict[tuple[str, str], Record]] = {}
    for r in records:
        by_run.setdefault(r.run, {})[r.model, r.metric] = r
    ratios: dict[str, Ratio | None] = {}
    for run, of_run in by_run.items():
        ratio = of_run.get((model, "throughput_ratio"))
        sides = [of_run[name, "throughput"].samples for name in (TWIN, SLOWED, MODEL) if (name, "throughput") in of_run]
        if ratio is None or not ratio.samples:
            ratios[run] = None
            continue
        odd = odd_round(sides) if all(len(s) == len(ratio.samples) for s in sides) else None
        ratios[run] = ratio_of_rounds([x for r, x in enumerate(ratio.samples) if r != odd])
    return ratios


if __name__ == "__main__":
    cli.run("validation.trials", main)
