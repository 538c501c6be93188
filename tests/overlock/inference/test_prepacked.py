"""Prepacked weights: the same convolution for every map, and for a weight that changes, moves or dies."""

from __future__ import annotations

import copy
import gc

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from overlock.inference import convolution, prepacked
from overlock.inference.convolution import conv, conv_add_
from overlock.inference.folded_conv import FoldedConv
from tests.golden_tools import relative_error

WHY_NOT = convolution.why_not(torch.zeros(1))
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1e-2}


def weights(dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def maps(dtype: torch.dtype, *shape: int) -> Tensor:
    return weights(dtype, *shape).contiguous(memory_format=torch.channels_last)


def test_padding_is_right_for_even_frames() -> None:
    framed = prepacked._framed(torch.ones(2, 1, 13, 13), 15)
    assert framed.shape[-2:] == (15, 15)
    assert framed.sum() == 2 * 169
    assert torch.equal(framed[..., 1:14, 1:14], torch.ones(2, 1, 13, 13))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    ("shape", "stride"), [((40, 24, 1, 1), 1), ((40, 24, 3, 3), 2), ((24, 1, 13, 13), 1), ((24, 1, 7, 7), 1)]
)
def test_one_weight_for_maps_of_any_size(shape: tuple[int, ...], stride: int, dtype: torch.dtype) -> None:
    """Maps that are larger, smaller and of another layout are convolved as well as the first."""
    weight, bias = weights(dtype, *shape), weights(dtype, shape[0])
    for size in ((2, 24, 14, 14), (1, 24, 14, 14), (5, 24, 28, 20), (1, 24, 1, 3), (1, 24, 160, 161)):
        for x in (maps(dtype, *size), weights(dtype, *size)):
            with torch.inference_mode():
                out = conv(x, weight, bias, None, stride)
            groups = 24 // shape[1]
            truth = F.conv2d(x.double(), weight.double(), bias.double(), stride, shape[-1] // 2, 1, groups)
            assert relative_error(out.double(), truth) < TOLERANCE[dtype]


def test_a_weight_is_kept_once_for_each_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one image's kernel reads is not what eight's left behind: oneDNN would reorder it at every call."""
    monkeypatch.setattr(prepacked, "_prepacked", {})

    def wanted(weight: Tensor, images: int) -> bytes:
        size = [images, weight.shape[1], 14, 14]
        fresh = torch.ops.mkldnn._reorder_convolution_weight(weight, [0, 0], [1, 1], [1, 1], 1, size)
        return prepacked._layout(fresh)

    for shape in ((512, 256, 1, 1), (256, 1024, 1, 1), (64, 64, 1, 1)):
        weight = weights(torch.float32, *shape)
        for images in (8, 1, 2, 8, 1):
            packed = prepacked.prepacked(weight, maps(torch.float32, images, shape[1], 14, 14), 1, 1, 1)
            assert prepacked._layout(packed) == wanted(weight, images)
        kept = prepacked._prepacked[id(weight)].by_map
        assert len({id(one) for one in kept.values()}) == len({wanted(weight, images) for images in (8, 1, 2)})
    for size in range(1, 2 * prepacked.MAPS):
        prepacked.prepacked(weight, maps(torch.float32, 1, 64, 1, size), 1, 1, 1)
    assert len(kept) <= prepacked.MAPS


def test_a_weight_that_changes_is_packed_anew() -> None:
    x, weight = maps(torch.float32, 2, 24, 6, 6), weights(torch.float32, 24, 24, 1, 1)
    with torch.no_grad():
        first = conv(x, weight, None)
        weight.mul_(2)
        assert torch.equal(conv(x, weight, None), 2 * first)
        weight.data = weight.data / 2
        assert torch.equal(conv(x, weight, None), first)
        assert torch.equal(conv_add_(first.clone(), x, weight, None), 2 * first)


@pytest.mark.parametrize("shape", [(24, 24, 1, 1), (24, 1, 13, 13)])
def test_edits_through_data(shape: tuple[int, ...]) -> None:
    """They are not counted: those of the whole weight are seen, and for those of one element PyTorch can be told."""
    x, weight = maps(torch.float32, 2, 24, 6, 6), weights(torch.float32, *shape)
    for layout in (torch.contiguous_format, torch.channels_last):
        weight = weight.contiguous(memory_format=layout)
        with torch.no_grad():
            first, version = conv(x, weight, None), weight._version
            weight.data.mul_(2)
            assert weight._version == version
            assert torch.equal(conv(x, weight, None), 2 * first)
            weight.data.copy_(weight / 2)
            assert torch.equal(conv(x, weight, None), first)
            weight.data[1, 0, -1, -1] += 1
            torch.autograd.graph.increment_version([weight])
            assert torch.equal(conv(x, weight, None), conv(x, weight.clone(), None))


def test_a_weight_with_gaps_in_memory() -> None:
    x, one = maps(torch.float32, 2, 24, 6, 6), weights(torch.float32, 1, 24, 1, 1)
    with torch.no_grad():
        assert torch.equal(conv(x, one.expand(8, 24, 1, 1), None), conv(x, one.repeat(8, 1, 1, 1), None))


def test_data_that_is_replaced_leaves_its_address_taken() -> None:
    """Neither the count of changes nor, at the same address, anything else would tell that `.data` is another one."""
    for channels in (16, 24, 64):
        weight = weights(torch.float32, channels, channels, 1, 1)
        with torch.no_grad():
            conv(maps(torch.float32, 2, channels, 6, 6), weight, None)
        address, weight.data = weight.data_ptr(), 2 * weight.data
        kept = [3 * weight.data for _ in range(20)]
        assert address not in {t.data_ptr() for t in kept}


def test_a_module_is_loaded_cast_copied_and_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepacked, "_prepacked", {})
    x = maps(torch.float32, 1, 24, 6, 6)
    module = FoldedConv(weights(torch.float32, 24, 24, 1, 1), None)
    with torch.no_grad():
        first = module(x)
        assert len(prepacked._prepacked) == 1
        module.load_state_dict({name: 4 * value for name, value in module.state_dict().items()})
        assert torch.equal(module(x), 4 * first)
        assert torch.equal(copy.deepcopy(module)(x), 4 * first)
        cast = copy.deepcopy(module).to(torch.bfloat16)
        assert relative_error(cast(x.bfloat16()).float(), 4 * first) < TOLERANCE[torch.bfloat16]
        assert relative_error(module.double()(x.double()).float(), 4 * first) < TOLERANCE[torch.float32]
    del module, cast
    gc.collect()
    assert len(prepacked._prepacked) == 0


def test_a_weight_made_in_inference_mode_is_not_kept() -> None:
    """It does not tell when it changes."""
    x = maps(torch.float32, 1, 24, 6, 6)
    with torch.inference_mode():
        weight = weights(torch.float32, 24, 1, 13, 13) * 1
        first = conv(x, weight, None)
        weight.mul_(2)
        assert torch.equal(conv(x, weight, None), 2 * first)
