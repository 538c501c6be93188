"""Both forms of the aggregation that are timed compute what the definition does."""

from __future__ import annotations

import pytest
import torch

from overlock.contmix import reference
from tests.benchmarks import aggregation
from tests.overlock.contmix.cases import relative_rms


@pytest.mark.parametrize(
    "shape", [(2, 3, 14, 14, 4, 13), (2, 2, 7, 7, 4, 7), (1, 2, 17, 24, 3, 13), (1, 2, 9, 8, 3, 5)]
)
def test_aggregation(shape: tuple[int, ...]) -> None:
    batch, heads, height, width, channels, kernel = shape
    weights = torch.randn(batch, heads, height, width, kernel**2).softmax(-1)
    value = torch.randn(batch, heads, channels, height, width)
    no_bias = torch.zeros(heads, 2 * kernel - 1, 2 * kernel - 1)
    wanted = reference.aggregate(weights.double().log(), value.double(), no_bias)
    assert relative_rms(aggregation.by_unfold(weights)(value), wanted) < 1e-6
    run = aggregation.by_tiles(weights)
    for _ in range(2):
        out = run(value.permute(0, 3, 4, 1, 2).contiguous())
        assert relative_rms(out.permute(0, 3, 4, 1, 2), wanted) < 1e-6
