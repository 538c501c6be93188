"""Gradients of parallel depthwise convolutions: by the C kernel and by FFT, against PyTorch's own in float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.grad import conv2d_weight

from overlock import native
from overlock.depthwise.parallel import NATIVE_SIZES, native_weight_grad, parallel_convs, why_not
from tests.overlock import isas
from tests.overlock.contmix.cases import relative_rms

needs_native = pytest.mark.skipif(native.why_not() is not None, reason=str(native.why_not()))
BOUNDS = {torch.float32: 1e-6, torch.bfloat16: 4e-3}


@pytest.mark.parametrize("isa", isas.HERE)
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("kernel_size", NATIVE_SIZES)
def test_weight_gradient_by_the_kernel(
    kernel_size: int, dilation: int, dtype: torch.dtype, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    isas.compile_for(isa, monkeypatch)
    generator = torch.Generator().manual_seed(kernel_size)
    x, grad = (torch.randn(2, 32, 9, 7, generator=generator).to(dtype) for _ in range(2))
    wanted = conv2d_weight(
        x.double(), (32, 1, kernel_size, kernel_size), grad.double(), 1, dilation * (kernel_size // 2), dilation, 32
    )
    got = native_weight_grad(x, grad, kernel_size, dilation)
    assert got.dtype == dtype
    assert relative_rms(got, wanted) < BOUNDS[dtype]


@pytest.mark.parametrize("channels", [32, 12])  # 12: no whole vectors of channels, for the FFT
@pytest.mark.parametrize("by_kernel", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_every_gradient(dtype: torch.dtype, by_kernel: bool, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if not by_kernel:
        monkeypatch.setattr(native, "_library", lambda: "switched off by the test")
    torch.manual_seed(0)
    branches = [(13, 1), (5, 1), (7, 2), (3, 3), (3, 4)]
    convs = [
        nn.Conv2d(channels, channels, k, 1, r * (k // 2), r, channels, bias=False, dtype=dtype) for k, r in branches
    ]
    x = torch.randn(2, channels, 14, 11, dtype=dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    weights = [conv.weight for conv in convs]
    outs = parallel_convs(x, convs)
    grads = [torch.randn_like(out) for out in outs]
    got = torch.autograd.grad(outs, [x, *weights], grads)
    wide = [p.detach().double().requires_grad_() for p in (x, *weights)]
    truths = [
        nn.functional.conv2d(wide[0], w, None, 1, r * (k // 2), r, channels)
        for w, (k, r) in zip(wide[1:], branches, strict=True)
    ]
    wanted = torch.autograd.grad(truths, wide, [g.double() for g in grads])
    for a, b in zip(got, wanted, strict=True):
        assert relative_rms(a, b) < (1e-13 if dtype == torch.float64 else 1e-6)


def test_gradients_of_gradients() -> None:
    """A gradient that the kernels made would pass for a constant."""
    torch.manual_seed(0)
    convs = [nn.Conv2d(32, 32, k, 1, r * (k // 2), r, 32, bias=False) for k, r in ((7, 1), (3, 2))]
    x = torch.randn(2, 32, 6, 5).contiguous(memory_format=torch.channels_last).requires_grad_()

    def penalty(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outs = parallel_convs(x, convs)
        (grad,) = torch.autograd.grad(sum(out.pow(3).sum() for out in outs), x, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), [x, *(conv.weight for conv in convs)])

    got = penalty(x)
    for conv in convs:
        conv.double()
    for a, b in zip(got, penalty(x.detach().double().requires_grad_()), strict=True):
        assert relative_rms(a, b) < 1e-5


def test_why_not_the_kernel() -> None:
    x = torch.zeros(1, 32, 5, 5)
    assert "float64" in str(why_not(x.double(), 7))
    assert "multiples of 16" in str(why_not(x[:, :12], 7))
    assert "kernels of" in str(why_not(x, 4))
    assert why_not(x, 7) == native.why_not()
