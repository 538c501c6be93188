"""What the commands share: arguments and their types, one-line errors, exit codes, and the writing of output."""

from __future__ import annotations

import argparse
import errno
import importlib.util
import io
import math
import os
import re
import secrets
import shlex
import signal
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

OK, REGRESSION, BAD_INPUT, UNDECIDED, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit codes: fine; regression or refuted claim; bad input or nothing measured; undecided; stopped by Ctrl-C.

A command that another signal stops ends with 128 and the signal's number."""

STOPPING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]

CLEANING_SECONDS = 10.0
"""What a stopped command has for its cleaning before a second signal cuts it short."""

FORMATS = ("table", "markdown", "latex", "csv", "json")
SUFFIXES = {".json": "json", ".csv": "csv", ".md": "markdown", ".tex": "latex"}

MIN_SIDE = 32
Resolution = tuple[int, int]


class BadInput(ValueError):
    """What the user gave cannot be used; the message names it and the mend, on one line."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line on stderr and exit code 2; every `type=Path` is read by `path`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register("type", Path, path)

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: error: {message} (see --help)\n")


def run(command: str, main: Callable[[], int]) -> NoReturn:
    """Run a command and exit with its code; bad input is one line on stderr, without a traceback.

    SIGTERM and SIGHUP end it as Ctrl-C does: what is measured is kept, and no process or temporary folder stays.
    """
    command = f"bench.{command}".rstrip(".")
    stopped = stop_on_signals()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # where it takes ASCII alone, say
    try:
        _check_place()
        code = main()
        if sys.stdout is not None:  # as it is where it was closed
            sys.stdout.flush()
    except BadInput as error:
        print(f"{command}: error: {' '.join(str(error).split())}", file=sys.stderr)
        code = BAD_INPUT
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone: `| head`
        sys.stderr.close()
        code = OK
    except OSError as error:  # of a file that was not looked at before, or of a full disk behind our output
        where = f"{error.filename}: " if error.filename else "writing the output: "
        print(f"{command}: error: {where}{error.strerror or error}", file=sys.stderr)
        if not error.filename:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes once more as it exits
        code = BAD_INPUT
    sys.exit(128 + stopped[0] if stopped and code == INTERRUPTED else code)


def need(what: str, extra: str, *packages: str) -> None:
    """Make sure that packages of an extra are installed, without importing them.

    Raises:
        BadInput: if one is not.
    """
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise BadInput(f"{what} needs {', '.join(missing)}: pip install 'overlock-bench[{extra}]'")


def last_line(text: str, otherwise: str = "no reason is given") -> str:
    """The last line of what a process said, which is its reason where it failed."""
    return (text.strip().splitlines() or [otherwise])[-1]


GONE = "the working directory is not there any more: change into another"


def _check_place() -> None:
    """Raises BadInput where the working directory is gone: every relative path would fail without a name."""
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise BadInput(GONE) from error


def stop_on_signals() -> list[int]:
    """Have SIGTERM and SIGHUP raise `KeyboardInterrupt`; the list gets the number of the one that came.

    Another one within `CLEANING_SECONDS` does nothing, a later one interrupts what did not end.
    """
    stopped: list[int] = []
    began: list[float] = []

    def stop(number: int, frame: object) -> None:
        now = time.monotonic()
        if stopped and now - began[-1] < CLEANING_SECONDS:  # it would cut short what is cleaned up
            return
        stopped.append(number)
        began.append(now)
        raise KeyboardInterrupt

    for number in STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, stop)
    return stopped


def resolution(text: str) -> Resolution:
    """`224` or `256x320` (height x width) -> (height, width)."""
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no resolution: give 224, or 256x320 as height x width")
    height, width = int(match[1]), int(match[2] or match[1])
    if min(height, width) < MIN_SIDE:
        raise argparse.ArgumentTypeError(f"{text!r} is too small: each side needs {MIN_SIDE} pixels or more")
    return height, width


def resolution_name(size: Resolution) -> str:
    """(224, 224) -> `224`, (256, 320) -> `256x320`."""
    height, width = size
    return str(height) if height == width else f"{height}x{width}"


def words(text: str) -> list[str]:
    """A command line's words, quoted as a shell has them."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no command line: {error}") from error


SHORT_DTYPES = {"fp32": "float32", "half": "float16", "fp16": "float16", "bf16": "bfloat16"}


def dtype(text: str) -> str:
    """The name that torch gives a dtype, by that or a short one, `bf16`; also behind `amp-`."""
    prefix, dash, name = text.rpartition("-")
    return f"{prefix}{dash}{SHORT_DTYPES.get(name, name)}"


LARGEST = 2**63 - 1
"""What libraries take for a whole number."""


def natural(text: str, least: int = 0) -> int:
    """A whole number of 0 or more."""
    if not text.isdecimal() or not least <= int(text) <= LARGEST:
        raise argparse.ArgumentTypeError(f"{text!r:.60} is no whole number of {least} or more, up to {LARGEST}")
    return int(text)


def positive(text: str) -> int:
    """A whole number of 1 or more."""
    return natural(text, 1)


def positive_or_auto(text: str) -> int | str:
    """`auto`, or a whole number of 1 or more."""
    return text if text == "auto" else positive(text)


def number(text: str, most: float = math.inf, above: bool = False) -> float:
    """A finite number of 0 or more, or `above` 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (0 <= value <= most and math.isfinite(value)) or (above and value == 0):
        which = "above 0" if above else "of 0 or more"
        end = "" if most == math.inf else f"{' and' if above else ','} up to {most:g}"
        raise argparse.ArgumentTypeError(f"{text!r:.60} is no number {which}{end}")
    return value


def above_zero(text: str, most: float = math.inf) -> float:
    """A finite number above 0."""
    return number(text, most, above=True)


def share(text: str) -> float:
    """A number from 0 to 1."""
    return number(text, 1.0)


def percent(text: str) -> float:
    """`5%` or `5` -> 0.05: more than 0 and less than 100."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)%?", text)
    if match is None or not 0 < float(match[1]) < 100:
        raise argparse.ArgumentTypeError(f"{text!r} is no percentage: give 5%, say")
    return float(match[1]) / 100


def seconds(text: str) -> float:
    """`60s` or `60` -> 60.0: more than 0."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)s?", text)
    if match is None or float(match[1]) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds: give 60, say")
    return float(match[1])


def path(text: str) -> Path:
    """A path that the system can have; whether anything is there is for others to say."""
    try:
        os.stat(text)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise argparse.ArgumentTypeError(f"{text[:40]}...: {error.strerror}") from error
    except ValueError as error:  # a null byte
        raise argparse.ArgumentTypeError(f"{text!r:.60}: {error}") from error
    if not text:
        raise argparse.ArgumentTypeError("an empty path: give a file or a folder")
    return Path(text)


def part(text: str) -> str:
    """What becomes a folder, and with more around it a file: the name of a set's part."""
    path(text)
    path(f"instances_{text}.json")  # COCO's annotations
    return text


def device(text: str) -> str:
    """auto, cpu, mps, cuda or cuda:N."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no device: give auto, cpu, cuda, cuda:N or mps")
    return text


DTYPES = ("float32", "tf32", "bfloat16", "float16")
"""What weights and inputs can be cast to where something is timed."""


def add_timing(p: argparse._ActionsContainer) -> None:
    """The arguments of every command that times: where, and how its processes are started."""
    p.add_argument("--device", type=device, default="auto", help="auto (default), cpu, cuda, cuda:N, mps")
    p.add_argument("--threads", type=positive, metavar="N",
                   help="CPU threads (default: the physical cores available)")  # fmt: skip
    p.add_argument("--process", choices=("fork", "exec"), default="fork",
                   help="fork workers from a preloaded one (default), or start fresh ones")  # fmt: skip


def add_device(p: Parser, dtypes: Sequence[str], dtype_help: str, workers: int) -> None:
    """The arguments of a command that runs networks over images: where, in what dtype, in how many processes."""
    p.add_argument("--device", type=device, default="auto", help="auto (default), cpu, cuda, cuda:N, mps")
    p.add_argument("--dtype", type=dtype, choices=dtypes, default="float32", help=dtype_help)
    p.add_argument("--threads", type=positive, metavar="N", help="CPU threads of the network (default: torch's choice)")
    p.add_argument("--workers", type=natural, default=workers, metavar="N",
                   help=f"processes that read images, for each process (default: {workers})")  # fmt: skip


def add_output(p: Parser) -> None:
    """The arguments of a command that makes records: how they are shown, and whether they are kept."""
    p.add_argument("--format", choices=FORMATS, help="default: table, or by the suffix of --output")
    p.add_argument("--output", type=Path, metavar="FILE", help="write there; the table is printed as well")
    p.add_argument("--save", action="store_true", help="keep the records under results/<machine>/")


def style_of(args: argparse.Namespace) -> str:
    """The format that `add_output`'s arguments ask for."""
    return str(args.format or SUFFIXES.get(args.output.suffix if args.output else "", "table"))


def show(text: Callable[[str], str], args: argparse.Namespace) -> None:
    """Print `text` of the format that `add_output`'s arguments ask for, or print the table and write the text.

    Raises:
        BadInput: if it cannot be written.
    """
    style = style_of(args)
    print(text("table" if args.output else style))
    if args.output:
        write(args.output, text(style))


def write(path: Path, text: str) -> None:
    """Write `--output`.

    Raises:
        BadInput: if it cannot be written.
    """
    write_whole(path, text + "\n")
    print(f"wrote {path}", file=sys.stderr)


def write_whole(path: Path, text: str) -> None:
    """Write a file as a whole: readers see the old text or the new one, and where it fails the old one stays.

    A link stays a link and the file behind it is written; an existing file keeps its mode. Devices, pipes, and files
    in a folder that cannot be written to are written in place.

    Raises:
        BadInput: if it cannot be written.
    """
    try:
        target = path.resolve()
        mode = _mode(target)
        if mode is not None and not (stat.S_ISREG(mode) and os.access(target.parent, os.W_OK)):
            target.write_text(text, encoding="utf-8")
            return
        partial = target.with_name(f".{secrets.token_hex(8)}.part")  # of nobody else, and short beside a long name
        try:
            partial.write_text(text, encoding="utf-8")
            if mode is not None:
                partial.chmod(stat.S_IMODE(mode))
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: a link that loops
        raise BadInput(unwritable(path, error)) from error


def check_writable(path: Path) -> None:
    """Make sure, before anything is measured, that `path` can be written; neither it nor a link there is touched.

    Raises:
        BadInput: if it cannot.
    """
    try:
        target = path.resolve()
        mode = _mode(target)
        if mode is None:
            with tempfile.TemporaryFile(dir=target.parent):
                pass
        elif not stat.S_ISFIFO(mode):  # which waits for its reader
            with target.open("ab"):
                pass
    except (OSError, RuntimeError) as error:
        raise BadInput(unwritable(path, error)) from error


def unwritable(path: Path, error: Exception) -> str:
    """What to say of a file that cannot be written."""
    why = error.strerror if isinstance(error, OSError) and error.strerror else error
    return f"cannot write {path}: {why}; give a file that can be written, in a folder that exists"


def _mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None
