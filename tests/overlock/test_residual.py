"""A residual connection by the C kernel, forward and backward, against its layers in float64."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from timm.layers import DropPath
from torch import Tensor, nn

from overlock import native
from overlock.layers import LayerScale
from overlock.residual import residual, why_not
from tests.golden_tools import fill
from tests.overlock import isas
from tests.overlock.contmix.cases import relative_rms

needs_native = pytest.mark.skipif(native.why_not() is not None, reason=str(native.why_not()))
BOUNDS = {torch.float32: 3e-7, torch.bfloat16: 4e-3}


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return x.contiguous(memory_format=torch.channels_last).requires_grad_()


def results(x: Tensor, y: Tensor, grad: Tensor, scale: nn.Module, drop_path: nn.Module) -> list[Tensor]:
    torch.manual_seed(3)  # of the images that are left out
    out = residual(x, y, scale, drop_path)
    return [out, *torch.autograd.grad(out, [x, y, *scale.parameters()], grad)]


@needs_native
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("drop_path", [nn.Identity(), DropPath(0.4), DropPath(0.4, scale_by_keep=False)], ids=str)
@pytest.mark.parametrize("shape", [(5, 32, 9, 7), (1, 48, 1, 3), (3, 16, 14, 14)], ids=str)
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("isa", isas.HERE)
def test_against_the_layers(
    isa: str, dtype: torch.dtype, shape: tuple[int, ...], drop_path: nn.Module, threads: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    isas.compile_for(isa, monkeypatch)
    scale = fill(LayerScale(shape[1])).to(dtype)
    x, y, grad = (draw(*shape, seed=i, dtype=dtype) for i in range(3))
    assert why_not(x, y, scale, drop_path) is None
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        got = results(x, y, grad.detach(), scale, drop_path)
    finally:
        torch.set_num_threads(before)
    wide = [t.detach().double().requires_grad_() for t in (x, y, grad)]
    wanted = results(wide[0], wide[1], wide[2].detach(), copy.deepcopy(scale).double(), drop_path)
    for a, b in zip(got, wanted, strict=True):
        assert a.dtype == dtype
        assert relative_rms(a, b) < BOUNDS[dtype] or torch.equal(a.double(), b)


@needs_native
def test_gradients_of_gradients() -> None:
    def penalty(dtype: torch.dtype) -> tuple[Tensor, ...]:
        scale = fill(LayerScale(16)).to(dtype)
        x, y = (draw(2, 16, 4, 3, seed=i).detach().to(dtype).requires_grad_() for i in range(2))
        grads = torch.autograd.grad(residual(x, y, scale, nn.Identity()).pow(3).sum(), [x, y], create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in grads), [x, y, *scale.parameters()])

    for a, b in zip(penalty(torch.float32), penalty(torch.float64), strict=True):
        assert relative_rms(a, b) < 1e-6


def doubled(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return 2 * output


def test_other_layers_run_one_by_one() -> None:
    scale, drop_path = fill(LayerScale(16)), nn.Identity()
    x, y = (draw(2, 16, 4, 3, seed=i) for i in range(2))
    assert "takes a LayerScale" in str(why_not(x, y, nn.Identity(), drop_path))
    assert torch.equal(residual(x, y, nn.Identity(), drop_path), x + y)
    drop_path.register_forward_hook(doubled)
    assert "not as it was made" in str(why_not(x, y, scale, drop_path))
    assert torch.equal(residual(x, y, scale, drop_path), scale(x) + 2 * y)


def test_why_not() -> None:
    layers = LayerScale(16), nn.Identity()
    x, y = (draw(2, 16, 4, 3, seed=i) for i in range(2))
    assert why_not(x, y, *layers) == native.why_not()
    assert "no gradient" in str(why_not(x, y.detach(), *layers))
    assert "float32 and bfloat16" in str(why_not(x.double(), y.double(), *layers))
    assert "float32 and bfloat16" in str(why_not(x, y.bfloat16(), *layers))
    assert "multiples of 16" in str(why_not(x[:, :12], y[:, :12], *layers))
    assert "not channels_last" in str(why_not(x, y.contiguous(), *layers))
