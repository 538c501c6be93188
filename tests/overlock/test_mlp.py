"""The middle of an MLP by the C kernel, forward and backward, against its operators in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from overlock import mlp, native
from overlock.layers import GRN, ResDWConv
from overlock.mlp import MLP, hidden, why_not
from tests.golden_tools import fill
from tests.overlock import isas
from tests.overlock.contmix.cases import relative_rms

needs_native = pytest.mark.skipif(native.why_not() is not None, reason=str(native.why_not()))
BOUNDS = {torch.float32: 5e-7, torch.bfloat16: 4e-3}
SHAPES = [(2, 32, 9, 7), (3, 272, 14, 14), (1, 16, 1, 5), (2, 48, 5, 1), (1, 80, 31, 17)]


def layers(channels: int) -> MLP:
    return fill(MLP(nn.GELU(), ResDWConv(channels), GRN(channels)))


def last(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    x = 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))
    return x.to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()


def gradients(module: nn.Module, x: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(module(x), [x, *module.parameters()], grad)


@needs_native
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("isa", isas.HERE)
def test_against_the_operators(
    isa: str, dtype: torch.dtype, shape: tuple[int, ...], threads: int, runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    isas.compile_for(isa, monkeypatch)
    module, x = layers(shape[1]).to(dtype), last(*shape, dtype=dtype)
    grad = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        got = [module(x), *gradients(module, x, grad)]
    finally:
        torch.set_num_threads(before)
    assert runs.count("hidden_backward") == 1
    wide, x = copy.deepcopy(module).double(), x.detach().double().requires_grad_()
    for a, b in zip(got, [wide(x), *gradients(wide, x, grad.double())], strict=True):
        assert a.dtype == dtype
        assert relative_rms(a, b) < BOUNDS[dtype]
    assert runs.count("hidden_backward") == 1, "float64 is for the operators"


@needs_native
@pytest.mark.parametrize("isa", isas.HERE)
def test_gelu_and_its_slope_everywhere(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A 3x3 that does nothing and a GRN that starts as the identity leave GELU alone."""
    isas.compile_for(isa, monkeypatch)
    module = MLP(nn.GELU(), ResDWConv(16), GRN(16))
    nn.init.zeros_(module[1].weight)
    nn.init.zeros_(module[1].bias)
    values = torch.cat([torch.linspace(-14, 14, 4000), torch.tensor([0.0, -0.0, 1e-30, -1e-30, 1e15, -1e15])])
    x = values.repeat(16, 1)[None, :, :, None].contiguous(memory_format=torch.channels_last).requires_grad_()
    (slope,) = torch.autograd.grad(module(x).sum(), x)
    wide = x.detach().double().requires_grad_()
    truth = nn.functional.gelu(wide)
    (wanted,) = torch.autograd.grad(truth.sum(), wide)
    assert ((module(x) - truth).abs() <= 3e-7 * x.abs()).all()
    assert ((slope - wanted).abs() <= 3e-7).all()


@needs_native
def test_not_a_number_stays_one() -> None:
    x = last(2, 16, 3, 3).detach()
    x[1, 3, 1, 1] = float("nan")
    x.requires_grad_()
    module = layers(16)
    out = module(x)
    (grad,) = torch.autograd.grad(out.sum(), x)
    for t in (out, grad):
        assert t[0].isfinite().all()
        assert t[1].isnan().all()


def test_a_dead_channel_has_finite_gradients() -> None:
    module, x = layers(16), last(1, 16, 3, 3).detach()
    with torch.no_grad():
        module[1].bias[2] = 0
        x[:, 2] = 0
    assert all(g.isfinite().all() for g in gradients(module, x.requires_grad_(), torch.ones_like(x)))


@needs_native
def test_gradients_of_gradients(runs: list[str]) -> None:
    module, x = layers(16), last(2, 16, 4, 3)

    def penalty(module: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
        (grad,) = torch.autograd.grad(module(x).square().sum(), x, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), [x, *module.parameters()], allow_unused=True)

    got = penalty(module, x)
    assert runs.count("hidden_backward") == 1  # of the penalty; the gradient in it was made to be differentiated
    for a, b in zip(got, penalty(copy.deepcopy(module).double(), x.detach().double().requires_grad_()), strict=True):
        assert b is None if a is None else relative_rms(a, b) < 1e-6


@needs_native
def test_autocast_and_checkpoints(runs: list[str]) -> None:
    module, x = layers(16), last(2, 16, 6, 5, dtype=torch.bfloat16)
    grad = torch.randn(2, 16, 6, 5, generator=torch.Generator().manual_seed(1)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        plain = module(x)
        kept = checkpoint(module, x, use_reentrant=False)
    assert plain.dtype == torch.bfloat16
    assert torch.equal(plain, kept)
    given = [x, *module.parameters()]
    got, again = torch.autograd.grad(plain, given, grad), torch.autograd.grad(kept, given, grad)
    assert all(map(torch.equal, got, again))
    assert runs.count("hidden_forward") == 3
    wide = x.detach().double().requires_grad_()
    wanted = gradients(copy.deepcopy(module).double(), wide, grad.double())
    for a, b in zip(got, wanted, strict=True):
        assert relative_rms(a, b) < BOUNDS[torch.bfloat16]


def doubled(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return 2 * output


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m[0].register_forward_hook(doubled),
        lambda m: m[1].register_forward_hook(doubled),
        lambda m: m.__setitem__(0, nn.GELU(approximate="tanh")),
        lambda m: m.__setitem__(1, fill(ResDWConv(16, 5))),
    ],
    ids=["hooked activation", "hooked convolution", "another GELU", "5x5"],
)
def test_other_layers_run_one_by_one(change: Callable[[MLP], object], runs: list[str]) -> None:
    module, x = layers(16), last(1, 16, 5, 4)
    change(module)
    one_by_one = x
    for layer in module:
        one_by_one = layer(one_by_one)
    assert torch.equal(module(x), one_by_one)
    assert not runs


def test_why_not() -> None:
    x = last(1, 16, 3, 4)
    assert why_not(x) == native.why_not()
    assert why_not(x.detach()) == "no gradient is recorded"
    assert "float64" in str(why_not(x.double()))
    assert why_not(x[:, :12]) == "12 channels are not a multiple of 16"
    assert why_not(x.contiguous()) == "the map is not channels_last"
    with torch.no_grad():
        assert why_not(x) == "no gradient is recorded"


def test_the_operators_are_the_layers() -> None:
    module, x = layers(6).double(), last(2, 6, 4, 5).double()
    conv, norm = module[1], module[2]
    assert relative_rms(hidden(x, conv.weight, conv.bias, norm.gamma, norm.beta), module(x)) < 1e-15
    assert tuple(map(type, module)) == mlp.KINDS
