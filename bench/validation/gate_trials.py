"""How often does the speed gate cry wolf? `python -m bench.validation.gate_trials --runs 20 --output FILE`.

Each run is `bench.gate --speed --base REV` as a user starts it; with REV the commit itself (the default), nothing
differs and no verdict may be REGRESSION. FILE (CSV) gets a line a run as soon as it is known; options after `--` are
the gate's. `--judge FILE` measures nothing: it applies the gate's rule, once and without further rounds, to the ratios
that `bench.validation.trials` kept.
"""

from __future__ import annotations

import csv
import json
import math
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bench import cli
from bench.cli import BadInput, Parser
from bench.engine.statistics import Ratio
from bench.files import alone, parse_csv, read_text
from bench.gates.margins import LEAST, verdict
from bench.gates.verdict import INVALID, REGRESSION
from bench.records.record import Record
from bench.validation.trials import MODEL, SLOWED, TWIN, of_trials, ratios_of

COLUMNS = ("time", "what", "verdict", "speed", "95 % interval", "margin", "smallest visible", "rounds", "seconds",
           "exit code", "options", "reason")  # fmt: skip

MEND = "give --output another file"
NOTHING = "it gave no reason either"


def main(argv: Sequence[str] | None = None) -> int:
    p = Parser(prog="bench.validation.gate_trials", description=__doc__)
    p.add_argument("--runs", type=cli.positive, default=20)
    p.add_argument("--base", default="HEAD", metavar="REV")
    what = p.add_mutually_exclusive_group(required=True)
    what.add_argument("--output", type=Path, metavar="FILE")
    what.add_argument("--judge", type=Path, metavar="FILE", help="records of bench.validation.trials")
    p.add_argument("--under", type=cli.words, default=[], metavar="COMMAND", help="that starts each run, say a lock's")
    p.add_argument("options", nargs="*", help="the gate's")
    args = p.parse_args(argv)
    if args.judge:
        print("\n".join(judged(of_trials(args.judge))))
        return cli.OK
    counts: Counter[str] = Counter()
    check(args.output)
    with alone(args.output, MEND):
        for i in range(args.runs):
            row = one_run(args.base, args.options, args.under)
            write(args.output, row)
            counts[row["verdict"]] += 1
            print(f"run {i + 1}: {row['verdict']} {row['speed']} ({row['95 % interval']})", file=sys.stderr, flush=True)
    print(", ".join(f"{n} {verdict}" for verdict, n in counts.most_common()))
    return cli.REGRESSION if counts[REGRESSION] else cli.OK


def judged(records: Sequence[Record]) -> list[str]:
    """For each model, how often each verdict falls on its ratios, as `bench.validation.trials` redoes them."""
    lines = []
    for model in (TWIN, SLOWED):
        counts: Counter[str] = Counter()
        for r in ratios_of(records, model).values():
            assert r.value is not None
            ratio = Ratio(r.value, r.lo or 0.0, math.inf if r.hi is None else r.hi, r.n or 1, r.samples, math.inf)
            counts[verdict(ratio, LEAST) if r.valid else INVALID] += 1
        lines.append(f"{model} against {MODEL}: {', '.join(f'{n} {v}' for v, n in counts.most_common())}")
    return lines


def one_run(base: str, options: Sequence[str], under: Sequence[str]) -> dict[str, str]:
    """What one gate said, by column.

    Raises:
        BadInput: if it said nothing.
    """
    begin, at = time.monotonic(), time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    command = [*under, sys.executable, "-m", "bench.gate", "--speed", "--base", base, "--format", "json", *options]
    done = subprocess.run(command, capture_output=True, errors="replace", check=False)
    try:
        (row,) = json.loads(done.stdout)["rows"]
        row["verdict"]
    except (ValueError, LookupError, TypeError) as error:
        raise BadInput(f"{shlex.join(command)} printed no verdict: {done.stderr.strip()[-300:] or NOTHING}") from error
    known = {
        **row,
        "time": at,
        "seconds": f"{time.monotonic() - begin:.0f}",
        "exit code": str(done.returncode),
        "options": shlex.join(options),
    }
    return {name: str(known.get(name, "")) for name in COLUMNS}


def check(path: Path) -> None:
    """Make sure, before anything is measured, that a file is one of ours, whose lines are whole.

    Raises:
        BadInput: if it is not.
    """
    if path.exists() and not path.is_file():
        raise BadInput(f"{path} is no file that lines can be added to: {MEND}")
    text = read_text(path, MEND) if path.exists() else ""
    if not text:
        return
    parse_csv(text, path, COLUMNS, MEND)
    if not text.startswith(",".join(COLUMNS) + "\n") or not text.endswith("\n"):
        raise BadInput(f"{path} has other columns, or a line that was never finished: {MEND}")


def write(path: Path, row: dict[str, str]) -> None:
    """Add a line to the file."""
    begun = path.exists() and path.stat().st_size > 0
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if not begun:
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    cli.run("validation.gate_trials", main)
