"""The form of ContMix that exporters write, against its definition."""

from __future__ import annotations

import pytest
import torch

from overlock.contmix import exported, reference
from overlock.contmix.inputs import Inputs
from tests.golden_tools import relative_error


# one tile, tiles that share a window, tiles that overlap, maps of one window, long maps
@pytest.mark.parametrize(
    ("height", "width", "kernel"), [(7, 7, 7), (14, 14, 13), (12, 12, 7), (13, 21, 13), (7, 40, 7), (17, 9, 5)]
)
def test_against_the_definition(height: int, width: int, kernel: int) -> None:
    generator = torch.Generator().manual_seed(height * width)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    taps, heads = 25 + kernel**2, 3
    inputs = Inputs(
        random(2, 4 * heads, height, width),
        random(2, 4 * heads, 7, 7),
        random(2, 4 * heads, height, width),
        random(taps, 49),
        random(taps),
        random(heads, 9, 9),
        random(heads, 2 * kernel - 1, 2 * kernel - 1),
    )
    assert relative_error(exported.forward(inputs, 0.5), reference.forward(inputs, 0.5)) < 1e-12
