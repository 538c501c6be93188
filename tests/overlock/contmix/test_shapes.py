"""The shapes of the benchmarks are those that the models meet."""

from __future__ import annotations

from overlock import VARIANTS
from tests.benchmarks.shapes import every_shape, shapes_of


def test_shapes_are_those_that_the_models_meet() -> None:
    assert len(every_shape()) == 3 * len(
        {(v["dims"][i], v["sub_num_heads"][i - 2]) for v in VARIANTS.values() for i in (2, 3)}
    )
    shape, last = shapes_of("overlock_t", 224, 224, 8)
    assert (shape.batch, shape.heads, shape.height, shape.width, shape.value_channels, shape.kernel) == (
        8, 8, 14, 14, 256, 13
    )  # fmt: skip
    assert (last.heads, last.height, last.width, last.value_channels, last.kernel) == (16, 7, 7, 512, 7)
