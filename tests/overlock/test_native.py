"""C kernels: what is said and what runs where they cannot be had, each case in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from overlock import native
from overlock.contmix import BACKENDS, choose_backend, contmix
from tests.overlock.contmix.cases import SCALE, Case

PROGRAM = """
import logging; logging.basicConfig()
import torch
from overlock.contmix import choose_backend
from overlock import native
print(choose_backend("auto", torch.zeros(1, 4, 7, 7)))
print(native.why_not())
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


def run(folder: Path, **environment: str) -> tuple[str, str, str]:
    """Backend chosen, why there is no native one, what was logged."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OVERLOCK_CACHE": str(folder), **environment}
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=env, check=True)
    chosen, why = done.stdout.splitlines()
    return chosen, why, done.stderr


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"OVERLOCK_NATIVE": "0"}, "switched off by OVERLOCK_NATIVE=0"),
        ({"PATH": "/nowhere", "CC": ""}, "there is no C compiler"),
        ({"CC": "/nowhere/cc"}, "/nowhere/cc cannot compile"),
        ({"CC": "false"}, "false cannot compile"),
    ],
)
def test_without_them(tmp_path: Path, environment: dict[str, str], reason: str) -> None:
    chosen, why, logged = run(tmp_path, **environment)
    assert chosen == "tiled"
    assert reason in why
    assert reason in logged
    assert not list(tmp_path.glob("*.so"))


@pytest.mark.skipif(native.why_not() is not None, reason=str(native.why_not()))
def test_compiled_once(tmp_path: Path) -> None:
    assert run(tmp_path)[:2] == ("native", "None")
    (library,) = tmp_path.iterdir()
    made = library.stat().st_mtime_ns
    assert run(tmp_path, CC="cc")[0] == "native"
    assert library.stat().st_mtime_ns == made


@pytest.mark.skipif(native.why_not() is not None, reason=str(native.why_not()))
def test_another_openmp_runtime_in_the_process(tmp_path: Path) -> None:
    """scikit-learn brings one of its own: the kernels still run, on PyTorch's."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OVERLOCK_CACHE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", RUNTIMES], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert "scikit_learn" not in done.stdout


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    chosen, why, _ = run(tmp_path / "file")
    assert chosen == "tiled"
    assert "file" in why


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
