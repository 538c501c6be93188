"""Maps smaller than the kernel: ContMix runs on an enlarged map and its result is pooled back."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from overlock import set_backend
from overlock.blocks import DynamicConvBlock
from overlock.contmix import Inputs, contmix, enlarged_size, reference
from tests.golden_tools import fill, image, relative_error
from tests.overlock.tools import tiny

DIM, CONTEXT = 16, 8
SMALL_MAPS = [(1, 1), (1, 5), (9, 1), (2, 3), (3, 3), (6, 9), (40, 6), (5, 45), (3, 27)]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def block(kernel_size: int) -> DynamicConvBlock:
    return fill(DynamicConvBlock(DIM, CONTEXT, kernel_size, num_heads=2)).double().eval()


@pytest.mark.parametrize(
    ("height", "width", "kernel_size", "size"),
    [
        (7, 7, 7, None),
        (13, 40, 13, None),
        (6, 6, 7, (7, 7)),
        (5, 6, 7, (7, 8)),
        (6, 5, 7, (8, 7)),
        (10, 12, 13, (13, 15)),
        (14, 12, 13, (15, 13)),
        (1, 1, 13, (13, 13)),
        (1, 50, 7, (7, 350)),
        (50, 1, 7, (350, 7)),
        # 7 / 5 * 45 is 62.99999999999999 in double precision, where integer arithmetic gives 63
        (5, 45, 7, (7, 62)),
        (45, 5, 7, (62, 7)),
        (3, 27, 13, (13, 116)),
        (6, 100, 7, (7, 116)),
    ],
)
def test_enlarged_size(height: int, width: int, kernel_size: int, size: tuple[int, int] | None) -> None:
    assert enlarged_size(height, width, kernel_size) == size


@pytest.mark.parametrize("kernel_size", [5, 7, 13, 17])
def test_enlarged_size_of_any_map(kernel_size: int) -> None:
    for height in range(1, 60):
        for width in range(1, 60):
            size = enlarged_size(height, width, kernel_size)
            if min(height, width) >= kernel_size:
                assert size is None
                continue
            assert size is not None
            assert min(size) == kernel_size
            assert enlarged_size(width, height, kernel_size) == size[::-1]
            exact = Fraction(kernel_size * max(height, width), min(height, width))
            # rounded down, but for a whole number that double precision misses from below
            assert max(size) == int(exact) or (exact.denominator == 1 and max(size) == exact - 1)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("kernel_size", [7, 13])
@pytest.mark.parametrize(("height", "width"), SMALL_MAPS)
def test_context_mixing_on_small_maps(height: int, width: int, kernel_size: int, backend: str) -> None:
    """Features and values are enlarged, the region centres taken from the enlarged context, the result pooled back."""
    layer = block(kernel_size)
    layer.backend = backend
    features, value = random(2, DIM + CONTEXT, height, width), random(2, DIM, height, width, seed=1)
    size = enlarged_size(height, width, kernel_size)
    assert size is not None
    large, large_value = (F.interpolate(x, size, mode="bilinear", align_corners=False) for x in (features, value))
    query, context = large[:, :DIM], large[:, DIM:]
    centres = F.adaptive_avg_pool2d(context, 7)
    inputs = Inputs(
        layer.weight_query(query),
        layer.weight_key[2](layer.weight_key[1](centres)),
        large_value,
        layer.weight_proj.weight.flatten(1),
        layer.weight_proj.bias,
        layer.rpb1,
        layer.rpb2,
    )
    wanted = reference.forward(inputs, (DIM / 4) ** -0.5)
    got = layer.context_mixing(features, value)
    assert got.shape == value.shape
    assert relative_error(got, F.adaptive_avg_pool2d(wanted, (height, width)).detach()) < 1e-13


@pytest.mark.parametrize(("height", "width"), [(7, 7), (9, 7), (8, 20)])
def test_other_maps_are_left_as_they_are(height: int, width: int) -> None:
    layer = block(7)
    features, value = random(1, DIM + CONTEXT, height, width), random(1, DIM, height, width, seed=1)
    query, context = features.split([DIM, CONTEXT], dim=1)
    parameters = (layer.weight_proj.weight.flatten(1), layer.weight_proj.bias, layer.rpb1, layer.rpb2)
    wanted = contmix(layer.weight_query(query), layer.weight_key(context), value, *parameters, (DIM / 4) ** -0.5)
    assert torch.equal(layer.context_mixing(features, value), wanted)


@pytest.mark.parametrize("mixes_prior", [False, True])
@pytest.mark.parametrize(("height", "width"), SMALL_MAPS)
def test_block_on_small_maps(height: int, width: int, mixes_prior: bool) -> None:
    layer = fill(DynamicConvBlock(DIM, CONTEXT, 7, num_heads=2, mixes_prior=mixes_prior)).double().train()
    joint, prior = (random(2, c, height, width).requires_grad_() for c in (DIM + CONTEXT, CONTEXT))
    out = layer(joint, prior)
    assert out.shape == joint.shape
    out.square().sum().backward()
    unused = {key for key, p in layer.named_parameters() if p.grad is None}
    assert not unused
    assert all(p.grad.isfinite().all() for p in (joint, *layer.parameters()) if p.grad is not None)
    assert (prior.grad is not None) == mixes_prior


@pytest.mark.parametrize("size", [(32, 32), (32, 480), (288, 33)])
def test_narrow_images(size: tuple[int, int]) -> None:
    """Down to maps of 1x1, and 1-wide ones."""
    model, x = tiny().double().eval(), image(9, (1, 3, *size))
    with torch.inference_mode():
        logits, wanted = model(x), set_backend(model, "reference")(x)
    assert logits.isfinite().all()
    assert relative_error(logits, wanted) < 1e-12
