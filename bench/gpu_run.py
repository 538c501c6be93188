"""`python -m bench.gpu_run --out DIR`: everything that needs a GPU, in one call, within nine minutes.

The kernels that the headline needs are tested first, while its models are compiled; then come the ratios, training, the
operators over their floors, and the rest of the tests. Every part is a process of its own that hands over each thing as
soon as it is measured, and DIR/gpu_run.tar.gz always holds everything: whatever ends a part or the run, and whenever it
does, what was measured until then is there. `--simulate` shows that. Experimental: only its dry run and its simulation
have run.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import cli
from bench.cli import BadInput, Parser
from bench.gpu import simulation
from bench.gpu.archive import ARCHIVE, Archive, read
from bench.gpu.kept import Kept, kept_in
from bench.gpu.parts import CORRECTNESS, PARTS, RESERVE, TIME, WINNERS, budgeted
from bench.gpu.reports import verdict
from bench.gpu.running import Run
from bench.paths import REPOSITORY
from bench.records import store
from bench.records.record import new_run
from bench.scratch import scratch

DESCRIPTION = f"""Measure on a GPU in one call: the ratios of OverLoCK to ConvNeXt, operators over their floors, and
whether the Triton kernels are correct. DIR/{ARCHIVE} holds records, logs and the summary, at any moment; the summary is
printed last and lies beside it."""

EPILOG = """Exit codes: 0 measured, and the kernels are correct as far as was asked; 1 a kernel is wrong, or not every
test of them ended, in words; 2 bad input, or nothing was measured. --dry-run runs every part for real on tiny models on
the CPU, and --simulate runs the script without a device through planted failures: they test the script, and their
figures mean nothing."""

DESCRIBING = 60.0
"""Seconds that describing the machine may take."""


def parser() -> Parser:
    p = Parser(prog="bench.gpu_run", description=DESCRIPTION, epilog=EPILOG)
    add = p.add_argument
    add("--out", type=Path, metavar="DIR", help="folder for the archive and the summary")
    add("--minutes", type=cli.number, default=TIME / 60, help="time for everything (default %(default)g)")
    add("--parts", nargs="+", choices=[part.name for part in PARTS], metavar="PART",
        help=f"only these, which share the time, of {', '.join(part.name for part in PARTS)}")  # fmt: skip
    add("--winners", type=Path, metavar="FILE", help=f"{WINNERS} or the archive of an earlier run: a side uses them")
    add("--caches", type=Path, metavar="DIR", help="the compilers' caches; calls that share them compile once")
    add("--device", type=cli.device, default="auto", help="a CUDA device (default: the first)")
    add("--dry-run", action="store_true", help="tiny models on the CPU, to test the script itself")
    add("--simulate", action="store_true",
        help="no device, planted failures: one table of them all, or with --plant one run")  # fmt: skip
    add("--plant", action="append", metavar="FAILURE@PART:N", help="what fails in a part's Nth operation, simulated")
    add("--speed", type=cli.number, default=20.0, help="simulated seconds a second (default %(default)g)")
    add("--summarise", type=Path, metavar="FILE", help="print the summary of an archive, and do nothing else")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    began = time.time()
    if args.summarise:
        return summarise(args.summarise)
    if args.simulate and args.plant is None:
        from bench.gpu.failures import table_of_failures

        if args.out is not None:
            _check_out(args.out)
            if any(args.out.iterdir()):
                raise BadInput(f"--out {args.out}: it is not empty: give a new folder, for one of each run")
        return table_of_failures(args.out, args.speed)
    if not 0 < args.minutes < 1e6:
        raise BadInput(f"--minutes {args.minutes:g}: give a time above 0")
    _check_out(args.out)
    with scratch("gpu") as folder:
        if args.simulate:
            from bench.gpu.failures import begin

            begin(args.plant, args.speed, folder)
        winners = _winners(args.winners)
        if args.caches:
            _use_caches(args.caches)
        device, environment = _environment(args.device, args.dry_run, args.simulate)
        archive = Archive(args.out)
        kept = Kept(environment, new_run(), folder, changed=lambda kept: archive.write(kept.texts()))
        if winners:
            kept.take("depthwise of an earlier run", {"file": WINNERS, "text": winners})
        seconds = 60 * args.minutes
        wanted = [part for part in PARTS if (part.name in args.parts if args.parts else not part.extra)]
        run = Run(kept, folder, began + simulation.real(seconds - RESERVE), device, args.dry_run)
        try:
            run.parts(budgeted(wanted, seconds))
        finally:  # also where the run is stopped
            code = _close(kept, archive, [p.name for p in wanted], real=not (args.dry_run or args.simulate))
        return code


def _close(kept: Kept, archive: Archive, parts: Sequence[str], real: bool) -> int:
    """Write and print the summary; the exit code."""
    from bench.gpu.summary import summary

    said = verdict([p for p in CORRECTNESS if p in parts], kept.planned, kept.tests)
    try:
        kept.summary = summary(kept, real, said.words) + "\n"
    finally:  # what was measured is worth more than its summary
        archive.give_up_ballast()
        archive.write(kept.texts())
    print(kept.summary)
    if archive.behind:
        print(f"{archive.path} lacks what came last: {archive.behind}. All records and blocks follow.")
        for part in kept.records:
            print(f"--- {part}.csv\n{store.csv_of(kept.of(part))}")
        for name in ("blocks.jsonl", "tests.jsonl"):
            print(f"--- {name}\n{kept.texts().get(name, '')}")
    with contextlib.suppress(OSError):  # it is in the archive, and was printed
        (archive.folder / "summary.md").write_text(kept.summary, encoding="utf-8")
    print(f"kernels: {said.words}; exit code {said.code}" if said.code else f"kernels: {said.words}", file=sys.stderr)
    if said.code:
        return said.code
    return cli.OK if kept.measured or any(kept.tests.values()) else cli.BAD_INPUT


def summarise(path: Path) -> int:
    """Print the summary of an archive, of a run that was killed before it wrote one, say."""
    from bench.gpu.summary import summary

    try:
        with scratch("gpu") as folder:
            kept = kept_in(read(path), folder)
        said = verdict([p for p in CORRECTNESS if p in kept.planned or p in kept.tests], kept.planned, kept.tests)
        print(summary(kept, str(kept.environment.get("device", "")).startswith("cuda"), said.words))
    except BadInput:
        raise
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        why = f"{type(error).__name__}: {error}"
        raise BadInput(
            f"--summarise {path}: its files are not as a run keeps them ({why}): give a {ARCHIVE}"
        ) from error
    return said.code


def _check_out(out: Path | None) -> None:
    if out is None:
        raise BadInput("--out DIR: say where the archive is to go")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--out {out}: {error.strerror}") from error
    if (out / ARCHIVE).exists():
        raise BadInput(f"--out {out}: there is the archive of an earlier run; give another folder")


def _winners(path: Path | None) -> str:
    """The text of a file of winners, or of that in an archive."""
    if path is None:
        return ""
    try:
        text = read(path).get(WINNERS, "") if path.suffix == ".gz" else path.read_text(encoding="utf-8")
        json.loads(text)
    except (OSError, ValueError) as error:
        raise BadInput(f"--winners {path}: neither {WINNERS} nor an archive with one ({error})") from error
    return text


def _use_caches(folder: Path) -> None:
    """Have the compilers of this run and its processes keep what they compile there."""
    for name in ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"):
        os.environ[name] = str(folder.resolve() / name.split("_")[0].lower())


DESCRIBE = """
import json, sys, torch
device = sys.argv[1]
if device.startswith("cuda") and not torch.cuda.is_available():
    print("null")
else:
    from bench.machine.environment import collect
    print(json.dumps(collect(device, 1)))
"""


def _environment(asked: str, dry: bool, simulated: bool) -> tuple[str, dict[str, Any]]:
    """The device, and the machine with it, described by a process that ends: this one holds no memory of the device.

    What cannot be described is left out: a run is worth more than its description.

    Raises:
        BadInput: if there is no such device.
    """
    if asked in ("cpu", "mps") and not (dry or simulated):
        raise BadInput(f"--device {asked}: this measures CUDA devices; --dry-run tests the script on a CPU")
    device = "cpu" if dry else "cuda" if asked == "auto" or simulated else asked
    least = {"machine": "simulated" if simulated else platform.node(), "device": "simulated" if simulated else device,
             "cpu": "", "cores": os.cpu_count(), "memory_bytes": 0, "os": platform.system(), "device_name": "",
             "driver": "", "python": platform.python_version(), "libraries": {"torch": "", "timm": ""}}  # fmt: skip
    if simulated:
        return device, least
    try:
        done = subprocess.run(
            [sys.executable, "-c", DESCRIBE, device], cwd=REPOSITORY, capture_output=True, check=True,
            timeout=DESCRIBING, errors="replace",
        )  # fmt: skip
        environment: dict[str, Any] | None = json.loads(done.stdout.splitlines()[-1])
    except (subprocess.SubprocessError, OSError, ValueError, IndexError) as error:
        said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        print(f"the machine cannot be described: {said[-1][:300] if said else error}", file=sys.stderr)
        return device, {**least, "undescribed": str(error)[:200]}
    if environment is None:
        raise BadInput("there is no CUDA device here; --dry-run tests the script on a CPU")
    return device, environment


if __name__ == "__main__":
    cli.run("gpu_run", main)
