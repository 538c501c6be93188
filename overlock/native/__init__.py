"""C kernels for CPUs, compiled once on the machine that runs them and kept in the user's cache.

They need a C compiler (`CC`, else `cc`, `gcc` or `clang`) and Linux; `why_not()` says why there are none, and
`OVERLOCK_NATIVE=0` switches them off. They are compiled for the widest instruction set that this machine has, or
for the one of `ISAS` that `OVERLOCK_ISA` names. They run on the threads that PyTorch's own kernels run on:
the library is linked with the OpenMP runtime that PyTorch calls, since a second one's threads would take the cores from
the first's.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch

from overlock.tracing import is_watched

log = logging.getLogger(__name__)

SOURCES = Path(__file__).parent
FLAGS = ("-std=gnu11", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-fopenmp")
ISA_VARIABLE = "OVERLOCK_ISA"
COMPILERS = ("cc", "gcc", "clang")
DIGEST = hashlib.sha256().digest_size
SECONDS = 120  # for the compiler, which takes about two
COMPILING = "compiling-"
"""How the name of a folder begins that a library is compiled in."""


class Isa(NamedTuple):
    """An instruction set that the kernels are written for (`vectors.h`)."""

    machine: str  # by `platform.machine()`; empty: any
    march: str  # the compiler's name of it
    needs: frozenset[str] = frozenset()  # flags of /proc/cpuinfo


ISAS = {
    "avx512": Isa("x86_64", "native", frozenset({"avx512f", "avx512dq", "avx512bw", "avx512vl"})),
    "avx2": Isa("x86_64", "haswell", frozenset({"avx2", "fma"})),
    "sse2": Isa("x86_64", "x86-64"),
    "neon": Isa("aarch64", "native"),
    "generic": Isa("", "native"),
}
"""The widest first."""


class _Unavailable(Exception):
    """Why there are no native kernels, in words for a user."""


def cache_folder() -> Path:
    """Where compiled libraries are kept: `OVERLOCK_CACHE`, else the user's cache."""
    own = os.environ.get("OVERLOCK_CACHE")
    try:
        return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "overlock"
    except RuntimeError as error:
        raise _Unavailable("there is no home to keep them in: name a folder by OVERLOCK_CACHE") from error


def _compiler() -> list[str]:
    asked = os.environ.get("CC")
    if asked:
        try:
            return shlex.split(asked)
        except ValueError as error:
            raise _Unavailable(f"CC={asked} cannot be read: {error}") from error
    for name in COMPILERS:
        if shutil.which(name):
            return [name]
    raise _Unavailable(f"there is no C compiler (looked for {', '.join(COMPILERS)}; CC names another)")


def _openmp(library: ctypes.CDLL) -> Path:
    """The OpenMP runtime that a library calls: a process may have loaded several (scikit-learn brings its own)."""
    try:
        address = ctypes.cast(library.omp_get_max_threads, ctypes.c_void_p).value
    except AttributeError as error:
        raise _Unavailable(f"{library._name} is not built with OpenMP") from error
    assert address is not None
    for line in os.fsdecode(Path("/proc/self/maps").read_bytes()).splitlines():
        span, *_, path = line.split(maxsplit=5)
        begin, end = (int(x, 16) for x in span.split("-"))
        if begin <= address < end:
            return Path(path)
    raise _Unavailable(f"{library._name} calls an OpenMP runtime that is in no file")


def _cpu() -> str:
    """What `-march=native` depends on: a cache may be shared by several machines."""
    lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    return platform.machine() + "\n".join(
        dict.fromkeys(x for x in lines if x.startswith(("model name", "flags", "Feat")))
    )


@lru_cache(maxsize=1)
def isas() -> tuple[str, ...]:
    """The instruction sets of `ISAS` that this machine has, the widest first."""
    machine, flags = platform.machine(), set(_cpu().split())
    own = tuple(name for name, isa in ISAS.items() if isa.machine == machine and isa.needs <= flags)
    return own or ("generic",)


def isa() -> str:
    """The instruction set that the kernels are compiled for: `OVERLOCK_ISA`, else the widest.

    Raises:
        ValueError: where the variable names none that this machine has.
    """
    asked = os.environ.get(ISA_VARIABLE) or isas()[0]
    if asked not in isas():
        raise ValueError(f"{ISA_VARIABLE}={asked}: this machine has {', '.join(isas())}")
    return asked


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, errors="replace", timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _Unavailable(f"{command[0]} cannot compile: {error}") from error
    if done.returncode:
        first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip()[-200:])
        raise _Unavailable(f"{command[0]} cannot compile: {first}")


def _compile(target: Path, compiler: list[str], openmp: Path) -> None:
    """Write beside the target and move it there, with its sum at its end: another process may be doing the same."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target.parent)
        with tempfile.TemporaryDirectory(prefix=COMPILING, dir=target.parent) as folder:
            compiled, linked = str(Path(folder, "kernels.o")), str(Path(folder, "kernels.so"))
            _run([*compiler, *FLAGS, f"-march={ISAS[isa()].march}", "-c", str(SOURCES / "kernels.c"), "-o", compiled])
            _run([*compiler, "-shared", compiled, str(openmp), "-lm", "-o", linked])
            os.chmod(linked, 0o700)  # whatever the umask is: nobody else's to write
            with open(linked, "r+b") as file:
                file.write(_sum(file.read(), target))
            os.replace(linked, target)
    except OSError as error:
        raise _Unavailable(
            f"they cannot be kept in {target.parent} ({error.strerror}): name a folder by OVERLOCK_CACHE"
        ) from error
    log.info("compiled CPU kernels into %s", target)


def _sweep(cache: Path) -> None:
    """Remove the folders of compilations that were killed: ours, and older than any that may still run."""
    for folder in cache.glob(f"{COMPILING}*"):
        try:
            about = folder.lstat()
            if about.st_uid == os.geteuid() and time.time() - about.st_mtime > 3 * SECONDS:
                shutil.rmtree(folder)
        except OSError:  # another process removes it
            continue


def _target(compiler: list[str], openmp: Path) -> Path:
    """Where the library is kept, named by all that it is compiled from, by and for."""
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(SOURCES.glob("*.[ch]")))
    everything = "\n".join([text, *FLAGS, isa(), *compiler, str(openmp), _cpu()])
    return cache_folder() / f"kernels-{isa()}-{hashlib.sha256(os.fsencode(everything)).hexdigest()[:16]}.so"


def _sum(content: bytes, target: Path) -> bytes:
    """Of a library, and of its name, which says what it was compiled from."""
    return hashlib.sha256(content + target.name.encode()).digest()


def _opened(target: Path) -> ctypes.CDLL | None:
    """The compiled library, or None if there is none that is whole and surely ours: anybody's code would run as ours.

    As OpenSSH does with keys, it must be its user's or root's, and nobody else's to write. What is checked is what is
    loaded, even where another user can exchange files in the folder.
    """
    try:
        opened = os.open(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        log.warning("%s is not used, but compiled anew: %s", target, error.strerror)
        return None
    with open(opened, "rb") as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode) or about.st_uid not in (os.geteuid(), 0) or about.st_mode & 0o022:
            log.warning("%s is not used, but compiled anew: other users can write it", target)
            return None
        content = file.read()
        if _sum(content[:-DIGEST], target) != content[-DIGEST:]:
            log.warning("%s is not used, but compiled anew: it is damaged", target)
            return None
        try:
            loaded = os.memfd_create(target.name)  # a copy that nobody can change under us
            with open(loaded, "wb", closefd=False) as copy:
                copy.write(content)
        except OSError as error:  # a limit on the size of files holds for it too
            log.info("%s is loaded from its file: %s", target, error.strerror)
            loaded = os.dup(file.fileno())
        return ctypes.CDLL(f"/proc/self/fd/{loaded}")  # which stays open, or its name would be another's


def _library() -> ctypes.CDLL | str:
    """The library, or why there is none."""
    return _made(os.environ.get(ISA_VARIABLE))


@lru_cache(maxsize=len(ISAS))
def _made(isa: str | None) -> ctypes.CDLL | str:
    """The library for an instruction set (None: the widest), or why there is none."""
    try:
        if os.environ.get("OVERLOCK_NATIVE", "1") == "0":
            raise _Unavailable("switched off by OVERLOCK_NATIVE=0")
        if sys.platform != "linux":
            raise _Unavailable(f"they are built on Linux only, this is {sys.platform}")
        compiler, openmp = _compiler(), _openmp(ctypes.CDLL(str(Path(torch.__file__).parent / "lib/libtorch_cpu.so")))
        target = _target(compiler, openmp)
        library = _opened(target)
        if library is None:
            _compile(target, compiler, openmp)
            library = _opened(target)
        if library is None:
            raise _Unavailable(f"{target} is not what was compiled: another user can write to its folder")
        if _openmp(library) != openmp:
            raise _Unavailable(f"they would run on the threads of {_openmp(library)}, PyTorch runs on {openmp}'s")
        return library
    except Exception as error:  # whatever it is, the network runs without them
        why = " ".join(str(error).split()) or type(error).__name__
        log.warning("no native CPU kernels: %s", why)
        return why


def why_not(x: torch.Tensor | None = None) -> str | None:
    """The reason why there are no kernels here, or why none can run on x past PyTorch's dispatcher; None: they can.

    A tracer, a counter or a fake tensor must see operators. The first call compiles the kernels, once on a machine.
    """
    if x is not None and x.device.type != "cpu":
        return f"it runs on a CPU, not on {x.device.type}"
    if x is not None and (type(x) is not torch.Tensor or is_watched()):
        return "traced or counted, operator by operator"
    library = _library()
    return library if isinstance(library, str) else None


def call(name: str, *arguments: object) -> None:
    """Run a kernel on PyTorch's number of threads.

    Raises:
        MemoryError: if its scratch memory cannot be had.
    """
    library = _library()
    assert not isinstance(library, str), library
    if getattr(library, name)(*arguments):
        raise MemoryError(f"no memory for the scratch of {name}")


def count(name: str, *arguments: object) -> int:
    """How many floats a layout of the kernels takes, by one of their functions."""
    library = _library()
    assert not isinstance(library, str), library
    function = getattr(library, name)
    function.restype = ctypes.c_long
    return int(function(*arguments))


def pointer(x: torch.Tensor) -> ctypes.c_void_p:
    """The address of a CPU tensor's first element."""
    assert x.device.type == "cpu"
    return ctypes.c_void_p(x.data_ptr())
