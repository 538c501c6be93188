"""Speed of ContMix: every shape that the variants meet, every backend, forward and backward.

    pytest -n 0 tests/benchmarks/test_bench_contmix.py --benchmark-columns=min,median,stddev,rounds

Ratios are to be read within one group: one shape and direction.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from overlock import VARIANTS
from overlock.contmix import BACKENDS, Inputs, contmix
from overlock.shapes import ContMixShape, contmix_shapes
from tests.benchmarks import unfold

LIMIT = 6 << 30  # bytes that a case may need
RESOLUTIONS = {"224": (224, 224, 8), "384": (384, 384, 4), "800x1280": (800, 1280, 1)}  # height, width, batch
SHAPES = {
    f"{resolution}-{shape}": shape
    for resolution, sizes in RESOLUTIONS.items()
    for name in VARIANTS
    for shape in contmix_shapes(name, *sizes).values()
}


def window_bytes(shape: ContMixShape) -> int:
    """What the K x K part of a form that materialises windows holds at once: windows, logits and weights."""
    positions = shape.batch * shape.height * shape.width * shape.kernel**2
    return positions * (shape.value_channels // 2 + 3 * shape.heads) * 4


def form(name: str, shape: ContMixShape, inputs: Inputs, copies: int) -> Callable[[], Tensor]:
    """The form `name` of the operator, ready to call; skips what cannot run here, or not within `LIMIT`."""
    if name in BACKENDS:
        reason = BACKENDS[name].why_not(inputs.value)
        if reason is not None:
            pytest.skip(f"{name}: {reason}")
    need = copies * window_bytes(shape) if name in ("reference", "unfold") else 0
    if need > LIMIT:
        pytest.skip(f"{name} would hold {need / 2**30:.1f} GiB of windows, more than {LIMIT / 2**30:.0f}")
    if name == "unfold":
        return partial(unfold.contmix, *inputs, shape.scale)
    return partial(contmix, *inputs, shape.scale, backend=name)


@pytest.mark.parametrize("backend", [*BACKENDS, "unfold"])
@pytest.mark.parametrize("case", SHAPES)
def test_forward(benchmark: BenchmarkFixture, case: str, backend: str) -> None:
    benchmark.group = f"ContMix forward {case}"
    call = form(backend, SHAPES[case], SHAPES[case].inputs(), copies=2)
    with torch.inference_mode():
        out = benchmark.pedantic(call, rounds=5, iterations=1, warmup_rounds=2)
    assert out.isfinite().all()


@pytest.mark.parametrize("backend", [*BACKENDS, "unfold"])
@pytest.mark.parametrize("case", SHAPES)
def test_backward(benchmark: BenchmarkFixture, case: str, backend: str) -> None:
    benchmark.group = f"ContMix backward {case}"
    inputs = Inputs(*(x.requires_grad_() for x in SHAPES[case].inputs()))
    out = form(backend, SHAPES[case], inputs, copies=4)()
    grad = torch.ones_like(out)
    grads = benchmark.pedantic(
        lambda: torch.autograd.grad(out, inputs, grad, retain_graph=True), rounds=5, iterations=1, warmup_rounds=1
    )
    assert all(x.isfinite().all() for x in grads)
