"""The yardstick of the benchmarks computes the same thing: otherwise its times would say nothing."""

from __future__ import annotations

import pytest
import torch

from overlock import VARIANTS
from overlock.contmix import reference
from tests.benchmarks import aggregation, unfold
from tests.benchmarks.shapes import every_shape, shapes_of
from tests.overlock.contmix.cases import NAMES, SCALE, Case, relative_rms, truth


@pytest.mark.parametrize(
    "case", [Case(7, 7, 7), Case(14, 14, 13), Case(9, 16, 7, heads=3), Case(13, 21, 13, batch=1)], ids=str
)
def test_whole_operator(case: Case) -> None:
    inputs = case.inputs(requires_grad=True)
    out = unfold.contmix(*inputs, SCALE)
    wanted = truth(case, torch.float64)
    assert relative_rms(out, wanted["output"]) < 1e-12
    for name, gradient in zip(NAMES, torch.autograd.grad(out, inputs, case.output_gradient()), strict=True):
        assert relative_rms(gradient, wanted[name]) < 1e-11, name


@pytest.mark.parametrize(
    "shape", [(2, 3, 14, 14, 4, 13), (2, 2, 7, 7, 4, 7), (1, 2, 17, 24, 3, 13), (1, 2, 9, 8, 3, 5)]
)
def test_aggregation(shape: tuple[int, ...]) -> None:
    weights, value = aggregation.inputs(*shape)
    wanted = reference.aggregate(weights.double().log(), value.double(), torch.zeros(shape[1], *[2 * shape[5] - 1] * 2))
    assert relative_rms(aggregation.by_unfold(weights, value)(), wanted) < 1e-6
    run = aggregation.by_tiles(weights, value)
    for _ in range(2):
        assert relative_rms(run().permute(0, 3, 4, 1, 2), wanted) < 1e-6


def test_shapes_are_those_that_the_models_meet() -> None:
    assert len(every_shape()) == 3 * len(
        {(v["dims"][i], v["sub_num_heads"][i - 2]) for v in VARIANTS.values() for i in (2, 3)}
    )
    shape, last = shapes_of("overlock_t", 224, 224, 8)
    assert (shape.batch, shape.heads, shape.height, shape.width, shape.value_channels, shape.kernel) == (
        8, 8, 14, 14, 256, 13
    )  # fmt: skip
    assert (last.heads, last.height, last.width, last.value_channels, last.kernel) == (16, 7, 7, 512, 7)
