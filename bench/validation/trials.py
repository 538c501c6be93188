"""`python -m bench.validation.trials --runs 20 --output FILE`: does the method see differences, and only real ones?

Each run is one default `bench.compare` of ConvNeXt-T with its twin and with a copy that is slower
(`bench.validation.planted`; 5 %, or `--slower`), beside a planted neighbour if one is asked for. It counts how often
the 95 % interval of the twin's ratio excludes 1 (false alarms, one in twenty by design), and how often the interval of
the slower copy lies below 1. FILE keeps the records of every run, so that the counts can be made again: `--summary`
only counts.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench import cli
from bench.cli import BadInput, Parser
from bench.records import store
from bench.records.record import Record
from bench.scratch import scratch
from bench.validation.neighbour import KINDS, neighbour

EXTRA = "PLANTED_EXTRA"  # read by `bench.validation.planted`
TWIN, SLOWED, MODEL = "convnext_t_twin", "convnext_t_slowed", "convnext_t"


def parser() -> Parser:
    p = Parser(prog="bench.validation.trials", description=__doc__)
    p.add_argument("--runs", type=cli.positive, default=20)
    p.add_argument("--batch-size", type=cli.positive, default=2)
    p.add_argument("--output", type=Path, required=True, metavar="FILE", help="records of all runs (CSV)")
    p.add_argument("--under", type=cli.words, default=[], metavar="COMMAND", help="that starts each run, say a lock's")
    p.add_argument("--slower", type=cli.percent, default=0.05, metavar="P%", help="of the slower copy (5%%)")
    p.add_argument("--neighbour", choices=KINDS, default="", help="a planted process that disturbs all runs")
    p.add_argument("--compare", type=cli.words, default=[], metavar="OPTIONS", help="bench.compare's, such as --quick")
    p.add_argument("--summary", action="store_true", help="measure nothing: count what FILE holds")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if not args.summary:
        store.check_appendable(args.output)
        for i in range(args.runs):
            begin = time.monotonic()
            with neighbour(args.neighbour):
                records = one_run(args.batch_size, args.slower, args.under, args.compare)
            store.append(args.output, records)
            ratios = ", ".join(_in_words(r) for r in records if r.metric == "throughput_ratio")
            print(f"run {i + 1}: {ratios}, {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
    print("\n".join(summary(of_trials(args.output))))
    return cli.OK


def one_run(batch: int, slower: float, under: Sequence[str], options: Sequence[str]) -> list[Record]:
    """The records of one `bench.compare`."""
    with scratch("trial") as folder:
        output = folder / "records.json"
        command = [*under, sys.executable, "-m", "bench.compare", "--import", "bench.validation.planted"]
        command += ["--models", TWIN, SLOWED, MODEL, "--metrics", "throughput", "--batch-size", str(batch)]
        done = subprocess.run(
            [*command, "--output", str(output), *options],
            env={**os.environ, EXTRA: str(slower)},
            capture_output=True,
            errors="replace",
            check=False,
        )
        if done.returncode or not output.exists():
            raise BadInput(f"a run failed: {cli.last_line(done.stderr)}")
        return store.read(output)


def _in_words(ratio: Record) -> str:
    """A ratio with its interval, as far as the run gave them."""
    numbers = ["none" if x is None else f"{x:.3f}" for x in (ratio.value, ratio.lo, ratio.hi)]
    return f"{ratio.model} {numbers[0]} [{numbers[1]}, {numbers[2]}]"


def of_trials(path: Path) -> list[Record]:
    """The records that trials kept in a file.

    Raises:
        BadInput: if it cannot be read, or has no ratio of a trial's models.
    """
    records = store.read(path)
    if not any(ratios_of(records, model) for model in (TWIN, SLOWED)):
        raise BadInput(f"{path} has no ratio of {TWIN} or {SLOWED}: give a file that bench.validation.trials kept")
    return records


def summary(records: Sequence[Record]) -> list[str]:
    """The counts of false alarms and of differences seen, and the spread of the ratios."""
    lines = []
    for model, what in ((TWIN, "false alarms: the interval excludes 1"), (SLOWED, "seen: the interval is below 1")):
        ratios = list(ratios_of(records, model).values())
        if not ratios:
            continue
        logs = [math.log(r.value) for r in ratios if r.value]
        bounds = [(r.lo or 0.0, math.inf if r.hi is None else r.hi) for r in ratios]
        counted = sum(hi < 1 or (model == TWIN and lo > 1) for lo, hi in bounds)
        right = "" if model == TWIN else f", {sum(x < 0 for x in logs)} on the right side"
        spread = float(np.std(logs, ddof=1)) if len(logs) > 1 else math.nan
        half = float(np.median([(hi - lo) / 2 for lo, hi in bounds]))
        lines.append(
            f"{model}: {counted} of {len(ratios)} runs {what}{right}; mean ratio {math.exp(float(np.mean(logs))):.4f}, "
            f"spread of runs {spread:.2%}; half an interval {half:.2%} (median); "
            f"valid {sum(r.valid for r in ratios)}, noisy {sum(r.noise is not None for r in ratios)} of {len(ratios)}"
        )
    return lines


def ratios_of(records: Sequence[Record], model: str) -> dict[str, Record]:
    """Run -> the ratio of a model, of the runs that gave one."""
    own = [r for r in records if (r.model, r.metric) == (model, "throughput_ratio") and r.value is not None]
    return {r.run: r for r in own}


if __name__ == "__main__":
    cli.run("validation.trials", main)
