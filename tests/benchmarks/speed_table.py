"""The speed table: each row's sides measured interleaved, every measurement in a fresh process.

    python tests/benchmarks/speed_table.py --rounds 5 --format markdown

A round runs every side of a group once, each in a process of its own; the next round runs them in the opposite order
(A B, B A, ...), so that a drift of the machine meets both sides alike. A ratio is made within a round; the table shows
the median over the rounds, and the least and the largest. A row of less than three rounds says so. Run it on a quiet
machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from tabulate import tabulate

from bench.engine.memory import PeakResident, trim
from bench.machine import environment
from tests.benchmarks.comparisons import GROUPS, MEMORY, Ratio, sides_of
from tests.benchmarks.sides import Side

ENOUGH_ROUNDS = 3
WARM_UP = (2, 10)  # calls, at least and at most
SETTLED = 0.02  # relative difference of two calls after which the warm-up ends
CALLS, SECONDS = 5, 3.0  # measured: at least as many calls, for as long
MOST_CALLS = 2000
Measured = dict[str, Any]  # seconds, calls, spread, memory


def measure(side: Side, seconds: float, memory: bool) -> Measured:
    """Median time of a call of `side` in this process, in seconds, and its memory above the loaded model in bytes."""

    def timed() -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    run = side.prepare()
    warm = [timed()]
    while len(warm) < WARM_UP[0] or (len(warm) < WARM_UP[1] and abs(warm[-1] / warm[-2] - 1) > SETTLED):
        warm.append(timed())
    peak = None
    if memory:
        trim()
        with PeakResident() as resident:
            run()
        peak = resident.peak
    times: list[float] = []
    while len(times) < CALLS or (sum(times) < seconds and len(times) < MOST_CALLS):
        times.append(timed())
    return {"seconds": statistics.median(times), "calls": len(times), "memory": peak}


def in_fresh_process(side: Side, args: argparse.Namespace, memory: bool) -> Measured:
    """`measure` in a process of its own.

    Raises:
        RuntimeError: if that fails, with the end of what it wrote.
    """
    request = json.dumps({"side": asdict(side), "seconds": args.seconds, "memory": memory, "threads": args.threads})
    command = [sys.executable, __file__, "--measure", request]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        end = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
        raise RuntimeError(f"{side}: {end}")
    result: Measured = json.loads(done.stdout.splitlines()[-1])
    return result


def run_group(name: str, args: argparse.Namespace) -> dict[Side, list[Measured]]:
    """Every side of a group, once a round."""
    sides = sides_of(GROUPS[name])
    found: dict[Side, list[Measured]] = {side: [] for side in sides}
    for i in range(args.rounds):
        for side in sides if i % 2 == 0 else reversed(sides):
            measured = in_fresh_process(side, args, name in MEMORY)
            found[side].append(measured)
            text = f"{name} round {i + 1}/{args.rounds}: {side}: {1e3 * measured['seconds']:.2f} ms"
            print(text, file=sys.stderr, flush=True)
    return found


def row(ratio: Ratio, found: dict[Side, list[Measured]], in_megabytes: bool) -> dict[str, str]:
    """One line of the table."""

    def seconds(side: Side) -> list[float]:
        return [measured["seconds"] for measured in found[side]]

    other = min(ratio.over, key=lambda side: statistics.median(seconds(side)))  # the faster layout
    ratios = [b / a for a, b in zip(seconds(ratio.side), seconds(other), strict=True)]
    note = "" if len(ratios) >= ENOUGH_ROUNDS else f" ({len(ratios)} only)"
    line = {
        "what": ratio.label,
        "ratio": f"{statistics.median(ratios):.2f}",
        "min..max": f"{min(ratios):.2f}..{max(ratios):.2f}",
        "rounds": f"{len(ratios)}{note}",
    }
    for column, side in (("ms", ratio.side), ("over, ms", other)):
        line[column] = f"{1e3 * statistics.median(seconds(side)):.2f}"
        if side.model != "aggregation":
            line[column] += f" ({side.batch / statistics.median(seconds(side)):.2f} images/s)"
    line["over"] = str(other)
    if in_megabytes:
        peaks = [max(measured["memory"] for measured in found[side]) / 2**20 for side in (ratio.side, other)]
        line["MiB above the loaded model"] = " / ".join(f"{peak:.0f}" for peak in peaks)
    return line


def machine_line(threads: int) -> str:
    found = environment.collect("cpu", threads)
    allocator = found["allocator"]
    settings = " ".join(f"{key}={value}" for key, value in allocator["settings"].items()) or "default settings"
    variables = " ".join(f"{key}={value}" for key, value in found["variables"].items())
    parts = [
        environment.describe(found),
        f"{threads} threads, {found['cpu_capability']}",
        f"{allocator['name']} ({settings})",
        *([variables] if variables else []),
        f"commit {found['commit'][:8] or 'unknown'}{' with changes' if found['dirty'] else ''}",
        found["time"],
    ]
    return "; ".join(parts)


def parse(arguments: list[str]) -> argparse.Namespace:
    summary = "The speed table, each row's sides interleaved, in fresh processes."
    parser = argparse.ArgumentParser(description=summary)
    parser.add_argument("--rounds", type=int, default=ENOUGH_ROUNDS, help="processes a side (default %(default)s)")
    parser.add_argument("--only", action="append", choices=[*GROUPS], help="this group of rows; may be repeated")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="measured in each process (default %(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="(default %(default)s)")
    parser.add_argument("--format", choices=["table", "markdown", "json"], default="table")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.rounds < 1 or args.threads < 1 or args.seconds < 0:
        parser.error("--rounds and --threads are at least 1, --seconds at least 0")
    return args


def main(arguments: list[str] | None = None) -> int:
    args = parse(sys.argv[1:] if arguments is None else arguments)
    if args.measure:
        request = json.loads(args.measure)
        torch.set_num_threads(request["threads"])
        print(json.dumps(measure(Side(**request["side"]), request["seconds"], request["memory"])))
        return 0
    print(f"{os.getloadavg()[0]:.1f} processes were busy in the last minute", file=sys.stderr)
    rows, failed = [], []
    for name in args.only or GROUPS:
        try:
            found = run_group(name, args)
        except RuntimeError as error:
            failed.append(f"{name}: {error}")
            continue
        rows += [row(ratio, found, name in MEMORY) for ratio in GROUPS[name]]
    if rows:
        if args.format == "json":
            print(json.dumps({"machine": machine_line(args.threads), "rows": rows}, indent=2))
        else:
            print(tabulate(rows, headers="keys", tablefmt="github" if args.format == "markdown" else "simple"))
            print(f"\n{machine_line(args.threads)}. Each measurement in a fresh process; float32 unless said.")
    for line in failed:
        print(f"not measured: {line}", file=sys.stderr)
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
