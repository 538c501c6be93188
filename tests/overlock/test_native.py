"""C kernels: what is said and what runs where they cannot be had, each case in a process of its own.

The cases' processes are forked from one that has imported PyTorch and run nothing, which takes seconds.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from overlock import native
from overlock.contmix import BACKENDS, choose_backend, contmix
from tests.overlock import isas
from tests.overlock.contmix.cases import SCALE, Case

PROGRAM = """
import json, logging, os, sys; logging.basicConfig(stream=sys.stdout)
import torch
from overlock.contmix import choose_backend
from overlock import native
for environment in json.loads(sys.argv[1]):
    if os.fork() == 0:
        os.environ.update(environment)
        print(choose_backend("auto", torch.zeros(1, 4, 7, 7)))
        print(native.why_not(), flush=True)
        os._exit(0)
    assert os.wait()[1] == 0
    print("=", flush=True)
"""

RUNTIMES = """
import sklearn.cluster
from pathlib import Path
import torch
from overlock import native
assert native.why_not() is None, native.why_not()
loaded = {line.split(maxsplit=5)[-1].strip() for line in open("/proc/self/maps") if "gomp" in line or "omp5" in line}
assert len(loaded) > 1, loaded
print(native._openmp(native._library()))
"""


def run(folder: Path, *environments: dict[str, str]) -> list[list[str]]:
    """Of each environment's process: what was logged, the backend chosen, and why there is no native one."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OVERLOCK_CACHE": str(folder)}
    command = [sys.executable, "-c", PROGRAM, json.dumps(environments)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
    return [part.splitlines() for part in done.stdout.split("=\n")[:-1]]


def test_without_them(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, str], str]] = [
        ({"OVERLOCK_NATIVE": "0"}, "switched off by OVERLOCK_NATIVE=0"),
        ({"PATH": "/nowhere", "CC": ""}, "there is no C compiler"),
        ({"CC": "/nowhere/cc"}, "/nowhere/cc cannot compile"),
        ({"CC": "false"}, "false cannot compile"),
        ({"CC": "gcc '-O1"}, "CC=gcc '-O1 cannot be read: No closing quotation"),
        ({"OVERLOCK_ISA": "avx1024"}, f"OVERLOCK_ISA=avx1024: this machine has {', '.join(native.isas())}"),
    ]
    answers = run(tmp_path, *(environment for environment, _ in cases))
    for (_, reason), (*logged, chosen, why) in zip(cases, answers, strict=True):
        assert chosen == "tiled", reason
        assert reason in why
        assert any(reason in line for line in logged)
    assert not list(tmp_path.glob("*.so"))


@pytest.mark.skipif(native.why_not() is not None, reason=str(native.why_not()))
def test_compiled_once(tmp_path: Path) -> None:
    assert run(tmp_path, {}) == [["native", "None"]]
    (library,) = tmp_path.iterdir()
    made = library.stat().st_mtime_ns
    assert run(tmp_path, {"CC": "cc"}) == [["native", "None"]]
    assert library.stat().st_mtime_ns == made


def test_what_a_killed_compilation_left_is_removed(tmp_path: Path) -> None:
    """Not what another process may still work in, nor what is not ours to name."""
    long_ago = time.time() - 24 * 3600
    for name in ("compiling-old", "compiling-new", "tmpother"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "kernels.o").write_text("half")
    for name in ("compiling-old", "tmpother"):
        os.utime(tmp_path / name, (long_ago, long_ago))
    with pytest.raises(native._Unavailable):
        native._compile(tmp_path / "kernels-x.so", ["/no/such/compiler"], Path("/libgomp.so"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["compiling-new", "tmpother"]


def test_a_library_for_each_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process has those of all of them, each under a name of its own, with instructions of its own."""
    if not isas.HERE:
        pytest.skip(str(native.why_not()))
    libraries = set()
    for name in isas.HERE:
        isas.compile_for(name, monkeypatch)
        library = native._library()
        assert not isinstance(library, str)
        libraries.add(library._handle)
        target = native._target(native._compiler(), native._openmp(library))
        assert target.name.startswith(f"kernels-{name}-")
        assert target.is_file()
    assert len(libraries) == len(isas.HERE)


@pytest.mark.parametrize(
    ("machine", "flags", "wanted"),
    [
        ("x86_64", "fma sse2 avx avx2 avx512f avx512dq avx512bw avx512vl", ("avx512", "avx2", "sse2")),
        ("x86_64", "fma sse2 avx avx2 avx512f", ("avx2", "sse2")),
        ("x86_64", "sse2 avx avx2", ("sse2",)),
        ("aarch64", "fp asimd", ("neon",)),
        ("riscv64", "", ("generic",)),
    ],
)
def test_what_a_machine_has(machine: str, flags: str, wanted: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native.platform, "machine", lambda: machine)
    monkeypatch.setattr(native, "_cpu", lambda: f"{machine} {flags}")
    assert native.isas.__wrapped__() == wanted


@pytest.fixture
def fresh() -> Iterator[None]:
    """The library is looked for anew, and the usual one again afterwards."""
    native._made.cache_clear()
    yield
    native._made.cache_clear()


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library as it is kept."""
    if native.why_not() is not None:
        pytest.skip(str(native.why_not()))
    library = native._library()
    assert not isinstance(library, str)
    return native._target(native._compiler(), native._openmp(library))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "damaged": lambda path: path.write_bytes(path.read_bytes()[:-100] + bytes(100)),
    "a text": lambda path: path.write_text("no library"),
    "empty": lambda path: path.write_bytes(b""),
    "of an older version, without a sum": lambda path: path.write_bytes(path.read_bytes()[:-32]),
    "of others to write": lambda path: path.chmod(0o766),
    "another's": lambda path: os.chown(path, 12345, -1) if os.geteuid() == 0 else None,
    "a link": lambda path: (path.rename(path.with_suffix(".real")), path.symlink_to(path.with_suffix(".real"))),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.usefixtures("fresh")
def test_what_is_not_surely_ours_is_compiled_anew(
    kind: str, compiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    target = tmp_path / compiled.name
    shutil.copy(compiled, target)
    assert native._opened(target) is not None
    DAMAGE[kind](target)
    if kind == "another's" and os.geteuid():
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert native._opened(target) is None
    made: list[Path] = []

    def compile_(into: Path, *_: object) -> None:
        made.append(into)
        into.unlink()
        shutil.copy(compiled, into)

    monkeypatch.setattr(native, "_compile", compile_)
    monkeypatch.setenv("OVERLOCK_CACHE", str(tmp_path))
    if kind == "another's" and os.geteuid() == 12345:
        return
    assert native.why_not() is None
    assert made == [target]
    assert f"{target.name} is not used, but compiled anew" in caplog.text


OVERWRITTEN = """
import sys
from pathlib import Path
from overlock import native
target = Path(sys.argv[1])
first = native._opened(target)
content = target.read_bytes()
target.write_bytes(b"")  # where it lies: what has it mapped has nothing
target.write_bytes(content)
target.write_bytes(bytes(len(content)))
second = native._opened(Path(sys.argv[2]))
assert first is not None and second is not None and first._handle != second._handle
assert first.omp_get_max_threads() == second.omp_get_max_threads()
"""


def test_a_library_that_is_overwritten_where_it_lies_ends_nothing(compiled: Path, tmp_path: Path) -> None:
    copies = [tmp_path / str(i) / compiled.name for i in range(2)]
    for copy in copies:
        copy.parent.mkdir()
        shutil.copy(compiled, copy)
    done = subprocess.run([sys.executable, "-c", OVERWRITTEN, *map(str, copies)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]


@pytest.mark.usefixtures("fresh")
def test_a_library_that_stays_anothers_is_never_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: Path
) -> None:
    """One that another user puts in the place of what was compiled, at the last moment."""
    monkeypatch.setattr(native, "_compile", lambda target, *_: target.write_bytes(b"planted"))
    monkeypatch.setenv("OVERLOCK_CACHE", str(tmp_path))
    assert "is not what was compiled" in str(native.why_not())


@pytest.mark.usefixtures("fresh")
def test_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", none)
    for name in ("OVERLOCK_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert "name a folder by OVERLOCK_CACHE" in str(native.why_not())
    assert choose_backend("auto", torch.zeros(1, 4, 7, 7)) == "tiled"


@pytest.mark.usefixtures("fresh")
def test_a_compiler_that_prints_what_is_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "cc"
    compiler.write_bytes(b"#!/bin/sh\nprintf 'error \\377\\376' >&2\nexit 1\n")
    compiler.chmod(0o700)
    monkeypatch.setenv("OVERLOCK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CC", str(compiler))
    assert "cc cannot compile: error" in str(native.why_not())


@pytest.mark.usefixtures("fresh")
def test_nothing_about_compiling_ends_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_cpu", lambda: 1 / 0)
    assert native.why_not() == "division by zero"


@pytest.mark.skipif(native.why_not() is not None, reason=str(native.why_not()))
def test_another_openmp_runtime_in_the_process(tmp_path: Path) -> None:
    """scikit-learn brings one of its own: the kernels still run, on PyTorch's."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OVERLOCK_CACHE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", RUNTIMES], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert "scikit_learn" not in done.stdout


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ((*_, chosen, why),) = run(tmp_path / "file", {})
    assert chosen == "tiled"
    assert why.startswith(f"they cannot be kept in {tmp_path / 'file'}")
    assert why.endswith("name a folder by OVERLOCK_CACHE")


@pytest.mark.skipif(native.why_not() is not None, reason=str(native.why_not()))
def test_any_number_of_threads_gives_the_same() -> None:
    """Every sum has one writer: results are equal bit by bit."""
    case = Case(15, 22, 13, batch=3, heads=2)
    inputs = case.inputs(torch.float32)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            out = BACKENDS["native"].forward(inputs, SCALE)
            results.append((out, *BACKENDS["native"].backward(case.output_gradient(torch.float32), inputs, SCALE)[:3]))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.skipif(native.why_not() is not None, reason=str(native.why_not()))
def test_logits_far_apart() -> None:
    """Softmax weights too small for float32 are 0, and the largest logits don't overflow."""
    inputs = Case(8, 8, 7).inputs(torch.float32)
    inputs.query.mul_(200)
    out = contmix(*inputs, SCALE, "native")
    wanted = contmix(*(x.double() for x in inputs), SCALE, "reference")
    assert out.isfinite().all()
    torch.testing.assert_close(out.double(), wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.skipif(native.why_not() is not None, reason=str(native.why_not()))
def test_not_a_number_reaches_its_windows_alone() -> None:
    inputs = Case(20, 20, 7, batch=1).inputs(torch.float32)
    inputs.value[0, 0, 0, 0] = float("nan")
    out = contmix(*inputs, SCALE, "native")
    assert out[0, 0, 0, 0].isnan()
    assert out[0, 0, 10:, 10:].isfinite().all()
    assert out[0, 1:].isfinite().all()


def test_auto_prefers_it() -> None:
    value = Case(7, 7, 7).inputs(torch.float32).value
    assert choose_backend("auto", value) == ("tiled" if native.why_not() else "native")
