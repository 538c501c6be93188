"""Parallel depthwise convolutions with their norms as one sum by the C kernels, against the layers in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from overlock import native
from overlock.depthwise import branches
from overlock.layers import DilatedReparam
from overlock.recomputation import recomputed
from tests.golden_tools import fill
from tests.overlock import isas
from tests.overlock.contmix.cases import relative_rms

needs_native = pytest.mark.skipif(native.why_not() is not None, reason=str(native.why_not()))
BOUNDS = {torch.float32: 2e-6, torch.bfloat16: 6e-3}
CASES = [
    (17, (2, 32, 20, 23)),
    (17, (2, 16, 1, 9)),
    (15, (3, 48, 7, 5)),
    (13, (2, 32, 14, 14)),
    (11, (1, 16, 19, 2)),
    (9, (1, 16, 12, 16)),
    (7, (4, 32, 7, 7)),
    (5, (2, 16, 3, 31)),
]


def draw(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))) + 0.5
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


def layer(kernel_size: int, channels: int = 32) -> DilatedReparam:
    return fill(DilatedReparam(channels, kernel_size)).train()


def results(module: nn.Module, x: Tensor, grad: Tensor) -> list[Tensor]:
    """Output, gradients, and the buffers afterwards."""
    x = x.detach().requires_grad_()
    out = module(x)
    buffers = [b.to(out.dtype) for b in module.buffers()]
    return [out, *torch.autograd.grad(out, [x, *module.parameters()], grad), *buffers]


@needs_native
@pytest.mark.parametrize(("kernel_size", "shape"), CASES, ids=str)
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("isa", isas.HERE)
def test_against_the_layers(
    isa: str, dtype: torch.dtype, kernel_size: int, shape: tuple[int, ...], runs: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    isas.compile_for(isa, monkeypatch)
    module = layer(kernel_size, shape[1]).to(dtype)
    wide = copy.deepcopy(module).double()
    x, grad = draw(*shape, dtype=dtype), draw(*shape, dtype=dtype) - 0.5
    got = results(module, x, grad)
    assert runs == ["branch_statistics", "depthwise_convolution", "branch_products", "branch_gradients"]
    for a, b in zip(got, results(wide, x.double(), grad.double()), strict=True):
        assert relative_rms(a, b) < BOUNDS[dtype]


@needs_native
@pytest.mark.parametrize("threads", [1, 3, 40])
def test_the_batch_in_parts(threads: int) -> None:
    """Sums of gradients by parts of the batch, as many as keep the threads busy."""
    module, x, grad = layer(7), draw(5, 32, 8, 9), draw(5, 32, 8, 9)
    truth = results(copy.deepcopy(module).double(), x.double(), grad.double())
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        got = results(module, x, grad)
    finally:
        torch.set_num_threads(before)
    for a, b in zip(got, truth, strict=True):
        assert relative_rms(a, b) < 2e-6


@needs_native
def test_statistics_of_what_hardly_varies() -> None:
    """A mean that is large beside the deviation costs no more digits than it does PyTorch."""
    module, x = layer(5, 16), draw(4, 16, 9, 9) * 1e-3 + 10
    got, wanted = module(x.requires_grad_()), copy.deepcopy(module).double()(x.double())
    kept = branches.why_not
    try:
        branches.why_not = lambda *_: "switched off by the test"
        separately = module(x)
    finally:
        branches.why_not = kept
    assert relative_rms(got, wanted) < 2 * relative_rms(separately, wanted)


@needs_native
def test_gradients_of_gradients(runs: list[str]) -> None:
    module, x = layer(7, 16), draw(2, 16, 5, 6)

    def penalty(module: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
        x = x.detach().requires_grad_()
        (grad,) = torch.autograd.grad(module(x).pow(3).sum(), x, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), [x, *module.parameters()], allow_unused=True)

    got = penalty(module, x)
    assert runs.count("branch_gradients") == 1  # of the penalty; the gradient in it was made to be differentiated
    for a, b in zip(got, penalty(copy.deepcopy(module).double(), x.double()), strict=True):
        assert b is None if a is None else relative_rms(a, b) < 1e-4


@needs_native
def test_checkpoints_move_the_statistics_once() -> None:
    module, x, grad = layer(7), draw(2, 32, 8, 9), draw(2, 32, 8, 9)
    again = copy.deepcopy(module)
    plain = results(module, x, grad)
    x = x.requires_grad_()
    out = recomputed(again, x)
    kept = [out, *torch.autograd.grad(out, [x, *again.parameters()], grad), *(b.float() for b in again.buffers())]
    assert all(map(torch.equal, plain, kept))


def doubled(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return 2 * output


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.origin_bn.eval(), "no batch norm in training"),
        (lambda m: setattr(m, "origin_bn", nn.SyncBatchNorm(32)), "no batch norm in training"),
        (lambda m: setattr(m, "origin_bn", nn.BatchNorm2d(32, track_running_stats=False)), "no batch norm in training"),
        (lambda m: setattr(m, "origin_bn", nn.BatchNorm2d(32, momentum=None)), "averages of all batches"),
        (lambda m: m.origin_bn.register_forward_hook(doubled), "not as it was made"),
        (lambda m: m.dil_conv_k5_1.register_forward_hook(doubled), "not as it was made"),
    ],
    ids=["in evaluation", "over processes", "without statistics", "averages", "hooked norm", "hooked convolution"],
)
def test_other_layers_run_one_by_one(
    change: Callable[[DilatedReparam], object], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reasons: list[str | None] = []
    why_not = branches.why_not
    monkeypatch.setattr(branches, "why_not", lambda *a: reasons.append(why_not(*a)) or reasons[-1])
    module = layer(7)
    change(module)
    results(module, draw(2, 32, 8, 9), draw(2, 32, 8, 9))
    assert reason in str(reasons[0])


def test_why_not() -> None:
    module, x = layer(7), draw(2, 32, 8, 9).requires_grad_()
    convs, norms = [module.lk_origin], [module.origin_bn]

    def why_not(x: Tensor, convs: list[nn.Conv2d] = convs) -> str:
        return str(branches.why_not(x, convs, norms))

    assert why_not(x) == str(native.why_not())
    assert "float64" in why_not(x.double())
    assert "not channels_last" in why_not(x.contiguous())
    assert "one position" in why_not(x[:1, :, :1, :1])
    assert "beyond the largest" in why_not(x, [nn.Conv2d(32, 32, k, dilation=2, groups=32) for k in (3, 5)])
    assert "up to 8 kernels" in why_not(x, [nn.Conv2d(32, 32, 19, groups=32)])
    with torch.autocast("cpu"):
        assert "under autocast" in why_not(x)
    with torch.no_grad():
        assert "no gradient" in why_not(x)
