"""`python -m bench.gpu_run --out DIR`: everything that needs a GPU, in one call, within ten minutes.

The correctness of the Triton kernels comes first, then the operators over their floors, then the ratios. Every
part is a process of its own that keeps each record at once: a part that crashes or runs out of time loses nothing but
its own rest, and the summary, which is printed last, says so. Experimental: only its dry run has run.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import cli
from bench.cli import BadInput, Parser
from bench.gpu.parts import PARTS, Part
from bench.gpu.summary import summary
from bench.paths import REPOSITORY
from bench.records.record import new_run

RESERVE = 8.0
"""Seconds kept for the summary."""

GRACE = 5.0
"""Seconds that a part may take beyond its time before it is stopped."""

DESCRIPTION = """Measure on a GPU in one call: correctness of the Triton kernels, operators over their floors, and
the ratios of OverLoCK to ConvNeXt. Records go to DIR/*.csv, a summary is printed last and kept in DIR/summary.md."""

EPILOG = """Exit codes: 0 measured, kernels correct; 1 a kernel is wrong; 2 bad input, or nothing was measured.
--dry-run runs every part for real on tiny models on the CPU: it tests the script, and its figures mean nothing."""


@dataclass
class Running:
    """A part under way."""

    part: Part
    process: subprocess.Popen[bytes]
    end: float  # when it is stopped
    began: float


@dataclass(frozen=True)
class Ended:
    """How a part ended."""

    part: Part
    code: int
    seconds: float
    how: str


def parser() -> Parser:
    p = Parser(prog="bench.gpu_run", description=DESCRIPTION, epilog=EPILOG)
    add = p.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="folder for records, logs and the summary")
    add(
        "--minutes",
        type=float,
        default=9.5,
        help="time for everything (default 9.5); the least important rows go first",
    )
    add("--parts", nargs="+", choices=[part.name for part in PARTS], metavar="PART", help="only these")
    add("--device", type=cli.device, default="auto", help="a CUDA device (default: the first)")
    add("--dry-run", action="store_true", help="tiny models on the CPU, to test the script itself")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    began = time.time()
    if args.minutes <= 0:
        raise BadInput(f"--minutes {args.minutes:g}: give a time above 0")
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--out {args.out}: {error.strerror}") from error
    if any(args.out.glob("*.csv")):
        raise BadInput(f"--out {args.out}: there are records of an earlier run; give another folder")
    device = _device(args.device, args.dry_run)
    environment = _environment(device, args.out / "environment.json")
    chosen = [part for part in PARTS if args.parts is None or part.name in args.parts]
    ended = run_parts(chosen, args.out, began + 60 * args.minutes - RESERVE, device, args.dry_run)
    text = summary(
        args.out, environment, [(e.part.name, e.part.purpose, e.seconds, e.how) for e in ended], args.dry_run
    )
    (args.out / "summary.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    wrong = any(e.part.name == "correctness" and e.code == 1 for e in ended)
    if wrong:
        return cli.REGRESSION
    measured = any(args.out.glob("*.csv")) or any(e.part.name == "correctness" and e.code == 0 for e in ended)
    return cli.OK if measured else cli.BAD_INPUT


def _device(asked: str, dry: bool) -> str:
    import torch

    if dry:
        return "cpu"
    if asked in ("cpu", "mps"):
        raise BadInput(f"--device {asked}: this measures CUDA devices; --dry-run tests the script on a CPU")
    if not torch.cuda.is_available():
        raise BadInput("there is no CUDA device here; --dry-run tests the script on a CPU")
    return "cuda" if asked == "auto" else asked


def _environment(device: str, path: Path) -> dict[str, Any]:
    """The machine and its device, described by a process that ends: this process holds no memory of the device."""
    code = "import json, sys; from bench.machine.environment import collect; print(json.dumps(collect(sys.argv[1], 1)))"
    done = subprocess.run(
        [sys.executable, "-c", code, device], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BadInput(f"cannot start measuring: {done.stderr.strip().splitlines()[-1:]}")
    environment: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    path.write_text(json.dumps(environment, indent=2), encoding="utf-8")
    return environment


def run_parts(parts: Sequence[Part], out: Path, end: float, device: str, dry: bool) -> list[Ended]:
    """Run the parts one after another, each until its own time or that of the whole run is over.

    Parts with `beside` run at the same time as the first others; the first part that measures waits for them.
    """
    run = new_run()
    ended: list[Ended] = []
    beside: list[Running] = []
    for part in parts:
        if part.beside:
            beside.append(_start(part, out, end, device, dry, run))
            continue
        if part.name != "correctness":
            ended += [_finish(other, out) for other in beside]
            beside.clear()
        if end - time.time() < GRACE:
            ended.append(Ended(part, -1, 0.0, "dropped: no time was left"))
            continue
        ended.append(_finish(_start(part, out, end, device, dry, run), out))
    return ended + [_finish(other, out) for other in beside]


def _start(part: Part, out: Path, end: float, device: str, dry: bool, run: str) -> Running:
    until = min(time.time() + part.seconds, end)
    command = [sys.executable, "-m", part.module, "--name", part.name, "--out", str(out.resolve()),
               "--until", str(until), "--device", device, "--run", run, *part.arguments,
               *(["--tiny"] if dry else [])]  # fmt: skip
    print(f"{part.name}: {part.purpose} (up to {until - time.time():.0f} s)", file=sys.stderr, flush=True)
    log = (out / f"{part.name}.log").open("wb")
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    log.close()
    return Running(part, process, until + GRACE, time.time())


def _finish(running: Running, out: Path) -> Ended:
    """Wait for a part, or stop it and the processes that it started when its time is over."""
    process, part = running.process, running.part
    try:
        code = process.wait(timeout=max(0.1, running.end - time.time()))
        how = "done" if code == 0 else f"ended with code {code}: {_last_line(out / f'{part.name}.log')}"
        if code < 0:
            how = f"killed by {signal.Signals(-code).name}"
    except subprocess.TimeoutExpired:
        code, how = -1, "stopped at its time; what it had kept is here"
    except BaseException:
        _stop(process)
        raise
    _stop(process)
    return Ended(part, code, time.time() - running.began, how)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the part's own process group: what it started goes with it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else "it said nothing"


if __name__ == "__main__":
    cli.run("gpu_run", main)
