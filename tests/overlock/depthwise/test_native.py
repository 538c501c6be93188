"""Depthwise convolution by the C kernel against PyTorch's in float64, in every instruction set of the machine."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from overlock.depthwise.native import convolve, preferred, taps_of, why_not
from overlock.inference.convolution import conv
from tests.overlock import isas
from tests.overlock.contmix.cases import relative_rms

BOUNDS = {torch.float32: 1e-6, torch.bfloat16: 4e-3}
SHAPES = [  # B, C, H, W, k
    (2, 32, 14, 14, 13),
    (1, 16, 56, 57, 17),  # in bands, where threads want them
    (1, 48, 7, 7, 7),
    (3, 16, 9, 23, 3),
    (2, 16, 2, 1, 5),  # a kernel wider than the map
    (1, 16, 40, 300, 15),  # longer than the cache takes at once
    (1, 16, 5, 16, 1),
]


@pytest.mark.parametrize("isa", isas.HERE)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_against_the_definition(
    dtype: torch.dtype, shape: tuple[int, ...], threads: int, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    isas.compile_for(isa, monkeypatch)
    batch, channels, height, width, k = shape
    generator = torch.Generator().manual_seed(k)
    x = torch.randn(batch, channels, height, width, generator=generator).to(dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    weight, bias = (torch.randn(s, generator=generator).to(dtype) for s in ((channels, 1, k, k), (channels,)))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        out = convolve(x, taps_of(weight), bias if k != 5 else None)
    finally:
        torch.set_num_threads(before)
    wanted = F.conv2d(x.double(), weight.double(), bias.double() if k != 5 else None, padding=k // 2, groups=channels)
    assert out.dtype == dtype
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert relative_rms(out, wanted) < BOUNDS[dtype]


@pytest.mark.parametrize("isa", isas.HERE)
@pytest.mark.parametrize("factor", [1.0, 1 + 2**-8, 1 + 2**-9, 3.0])  # 1 + 2^-8 makes ties
def test_every_bfloat16_is_read_and_rounded_as_pytorch_does(
    factor: float, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    isas.compile_for(isa, monkeypatch)
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    x = every.view(1, 64, 64, 16).permute(0, 3, 1, 2)
    out = convolve(x, torch.full((1, 16), factor), None)
    wanted = (x.float() * factor).bfloat16()
    assert torch.equal(out.isnan(), wanted.isnan())
    assert torch.equal(out[~out.isnan()], wanted[~wanted.isnan()])


@pytest.mark.parametrize(
    ("x", "kernel_size", "reason"),
    [
        (torch.ones(1, 16, 4, 4, dtype=torch.float64), 3, "float64"),
        (torch.ones(1, 12, 4, 4), 3, "multiples of 16"),
        (torch.ones(1, 16, 4, 4), 3, "not channels_last"),
        (torch.ones(1, 16, 4, 4).contiguous(memory_format=torch.channels_last), 35, "up to 33"),
        (torch.ones(1, 16, 4, 4).contiguous(memory_format=torch.channels_last), 4, "odd"),
    ],
)
def test_what_it_refuses(x: torch.Tensor, kernel_size: int, reason: str) -> None:
    assert reason in str(why_not(x, kernel_size))


@pytest.mark.skipif(not isas.HERE, reason="no kernels")
def test_small_kernels_are_taken_on_small_maps() -> None:
    small, large = (torch.empty(1, 16, n, n).contiguous(memory_format=torch.channels_last) for n in (64, 128))
    assert [preferred(x, 3) for x in (small, large)] == [True, False]
    assert [preferred(x, 7) for x in (small, large)] == [True, True]


@pytest.mark.skipif(not isas.HERE, reason="no kernels")
def test_an_edited_weight_is_packed_again() -> None:
    x = torch.ones(1, 16, 6, 6).contiguous(memory_format=torch.channels_last)
    weight = torch.ones(16, 1, 7, 7)
    assert preferred(x, 7)
    with torch.no_grad():
        assert conv(x, weight, None)[0, 0, 2, 2] == 36
        weight.mul_(2)
        assert conv(x, weight, None)[0, 0, 2, 2] == 72
