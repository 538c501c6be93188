"""GRN in place by the C kernel, with and without the convolution before it, against the definition in float64."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import overlock
from overlock import native
from overlock.inference import grn
from overlock.inference.grn import normalise_
from tests.golden_tools import image
from tests.overlock import isas
from tests.overlock.contmix.cases import relative_rms
from tests.overlock.tools import tiny

pytestmark = pytest.mark.skipif(native.why_not() is not None, reason=str(native.why_not()))

SHAPES = [(2, 64, 9, 7), (1, 96, 5, 4), (3, 224, 14, 14), (2, 16, 1, 1), (1, 80, 1, 6), (5, 128, 2, 3)]
BOUNDS = {torch.float32: 2e-7, torch.bfloat16: 4e-3}


def defined(x: Tensor, gamma: Tensor, beta: Tensor | None, conv: tuple[Tensor, Tensor | None] | None) -> Tensor:
    y, gamma = x.double(), gamma.double()
    if conv is not None:
        weight, bias = conv
        y = F.conv2d(y, weight.double(), None if bias is None else bias.double(), padding=1, groups=x.shape[1])
    norm = y.square().sum((2, 3), keepdim=True).sqrt()
    y = y * (1 + gamma * norm / (norm.mean(1, keepdim=True) + 1e-6))
    return y if beta is None else y + beta.double()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("parts", ["grn", "grn and beta", "conv, grn and beta", "conv without bias, grn"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("isa", isas.HERE)
def test_against_the_definition(
    isa: str, dtype: torch.dtype, shape: tuple[int, ...], parts: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    isas.compile_for(isa, monkeypatch)
    generator = torch.Generator().manual_seed(sum(shape))

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator).to(dtype)

    channels = shape[1]
    x = draw(*shape).contiguous(memory_format=torch.channels_last)
    gamma, beta = draw(1, channels, 1, 1), draw(1, channels, 1, 1) if "beta" in parts else None
    bias = draw(channels) if "conv," in parts else None
    conv = (draw(channels, 1, 3, 3), bias) if "conv" in parts else None
    wanted = defined(x, gamma, beta, conv)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        out = normalise_(x, gamma, beta, conv)
    finally:
        torch.set_num_threads(before)
    assert out is x
    assert relative_rms(out, wanted) < BOUNDS[dtype]


def test_not_a_number_stays_one() -> None:
    x = torch.ones(2, 16, 3, 3).contiguous(memory_format=torch.channels_last)
    x[1, 3, 1, 1] = float("nan")
    out = normalise_(x, torch.ones(1, 16, 1, 1), None)
    assert out[0].isfinite().all()
    assert out[1].isnan().all()  # the mean of the norms reaches every channel


@pytest.mark.parametrize(
    ("x", "reason"),
    [
        (torch.ones(1, 16, 2, 2, dtype=torch.float64), "float64"),
        (torch.ones(1, 12, 2, 2).contiguous(memory_format=torch.channels_last), "12 channels"),
        (torch.ones(1, 16, 2, 2), "not channels_last"),
        (torch.ones(1, 16, 2, 2, requires_grad=True), "gradient"),
    ],
)
def test_what_it_refuses(x: Tensor, reason: str) -> None:
    assert reason in str(grn.why_not(x))


def test_a_tracer_and_a_counter_see_operators() -> None:
    """A traced graph without the convolution would be wrong, a count without it too small."""
    deployed = overlock.deploy(tiny().eval())
    x, other = (image(i, (1, 3, 64, 96), torch.float32) for i in (0, 1))
    with torch.inference_mode():
        traced = torch.jit.trace(deployed, x)
        assert relative_rms(traced(other), deployed(other).double()) < 1e-6
        with FlopCounterMode(display=False) as counter:
            deployed(x)
    plain = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        copy.deepcopy(deployed).to("meta")(x.to("meta"))
    assert plain == counter.get_total_flops()
