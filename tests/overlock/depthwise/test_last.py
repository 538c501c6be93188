"""Depthwise convolution of channels_last maps by Triton against PyTorch's in float64: in the interpreter, and on a
GPU where there is one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from overlock.depthwise import dispatch, last
from overlock.depthwise.last import Launch, depthwise_last
from overlock.depthwise.triton import KERNEL_SIZES
from overlock.inference.convolution import conv
from tests.overlock.contmix.cases import relative_rms
from tests.overlock.contmix.test_triton import interpreter  # noqa: F401 (a fixture)

pytest.importorskip("triton")
TOLERANCES = {torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}
AFTER = {None: lambda y: y, "gelu": F.gelu, "silu": F.silu}


def check(
    shape: tuple[int, ...], k: int, dtype: torch.dtype, activation: str | None = None, bias: bool = True,
    device: str = "cpu",
) -> None:  # fmt: skip
    generator = torch.Generator().manual_seed(k)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator).to(dtype)

    x = draw(*shape).contiguous(memory_format=torch.channels_last)
    weight, shift = draw(shape[1], 1, k, k), draw(shape[1]) if bias else None
    wanted = F.conv2d(x.double(), weight.double(), None if shift is None else shift.double(), padding=k // 2,
                      groups=shape[1])  # fmt: skip
    out = depthwise_last(x.to(device), weight.to(device), None if shift is None else shift.to(device), activation)
    assert out.dtype == dtype
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert relative_rms(out, AFTER[activation](wanted)) < TOLERANCES[dtype]


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("k", KERNEL_SIZES)
def test_kernel_sizes(k: int) -> None:
    check((1, 8, 5, 6), k, torch.float32)


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize(
    "shape",
    [(2, 8, 1, 1), (1, 16, 2, 17), (3, 8, 7, 7), (1, 8, 20, 7), (1, 8, 3, 70), (40, 8, 2, 3)],
    ids=str,
)
def test_shapes(shape: tuple[int, ...]) -> None:
    """Among them several blocks of channels, more columns and groups than a program takes, tiles that are not full."""
    check(shape, 5, torch.float32)


@pytest.mark.usefixtures("interpreter")
def test_no_images() -> None:
    x = torch.zeros(0, 8, 5, 6).contiguous(memory_format=torch.channels_last)
    assert depthwise_last(x, torch.ones(8, 1, 5, 5), None).shape == x.shape


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(("activation", "bias"), [(None, False), ("gelu", True), ("silu", True)], ids=str)
def test_epilogues(activation: str | None, bias: bool, dtype: torch.dtype) -> None:
    check((2, 8, 5, 9), 7, dtype, activation, bias)


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("launch", [*last.LAUNCHES[1:], Launch(64, 2), Launch(32, 1)], ids=str)
def test_other_launches(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last, "launch", launch)
    check((2, 8, 9, 10), 5, torch.float32)


@pytest.mark.usefixtures("interpreter")
def test_what_lies_beyond_the_map_is_not_read() -> None:
    """The map is a part of a larger one, of NaN."""
    wide = torch.full((3, 8, 6, 6), torch.nan).contiguous(memory_format=torch.channels_last)
    x = wide[1:2]
    x.copy_(torch.randn(1, 8, 6, 6, generator=torch.Generator().manual_seed(0)))
    weight = torch.ones(8, 1, 9, 9)
    wanted = F.conv2d(x.double(), weight.double(), padding=4, groups=8)
    assert relative_rms(depthwise_last(x, weight, None), wanted) < 1e-6


def test_reasons_why_not() -> None:
    x, weight = torch.zeros(1, 8, 4, 4).contiguous(memory_format=torch.channels_last), torch.zeros(8, 1, 5, 5)
    for bad, kernel, why in (
        (x.double(), weight, "not float64"),
        (x, torch.zeros(8, 1, 6, 6), "not 6"),
        (torch.zeros(1, 12, 4, 4), weight, "multiples of 8 channels, not 12"),
        (torch.zeros(1, 8, 4, 4), weight, "the map is not channels_last"),
    ):
        with pytest.raises(ValueError, match=why):
            depthwise_last(bad, kernel, None)
        assert not last.suits(bad, kernel.shape[-1])


@pytest.mark.usefixtures("interpreter")
def test_it_is_what_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.zeros(1, 8, 5, 5).contiguous(memory_format=torch.channels_last)
    weight = torch.zeros(8, 1, 5, 5)
    assert dispatch.chosen(x, weight) == "torch"
    try:
        dispatch.use("triton")
        assert dispatch.chosen(x, weight) == "triton"
        assert dispatch.chosen(x.requires_grad_(), weight) == "padded", "it has no gradient"
        with torch.no_grad():
            assert dispatch.chosen(x, weight) == "triton"
        x = x.detach()
        assert dispatch.chosen(x.contiguous(), weight) == "padded"
        assert dispatch.chosen(torch.zeros(1, 4, 5, 5).to(memory_format=torch.channels_last), weight[:4]) == "padded"
        called: list[str | None] = []
        monkeypatch.setattr(last, "depthwise_last", lambda x, w, b, activation: called.append(activation) or x)
        monkeypatch.setattr("overlock.inference.convolution.why_not", lambda x: "not on CUDA")
        conv(x, weight, None, "gelu")
        assert called == ["gelu"], "the activation is the kernel's"
        dispatch.use("padded")
        assert dispatch.chosen(x, weight) == "padded"
    finally:
        dispatch.use("torch")


def test_meta_and_cost() -> None:
    x = torch.zeros(2, 8, 9, 8, device="meta").contiguous(memory_format=torch.channels_last)
    weight = torch.zeros(8, 1, 7, 7, device="meta")
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        assert torch.ops.overlock.depthwise_last(x, weight, None, None).shape == x.shape
    assert counter.get_total_flops() == 2 * 2 * 8 * 72 * 49


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("shape", "k"),
    [((8, 64, 56, 56), 17), ((8, 128, 28, 28), 15), ((8, 256, 14, 14), 13), ((8, 512, 7, 7), 7), ((2, 56, 9, 33), 9)],
    ids=str,
)
def test_on_a_gpu(shape: tuple[int, ...], k: int, dtype: torch.dtype) -> None:
    check(shape, k, dtype, "gelu", device="cuda")
    check(shape, k, dtype, device="cuda")
