"""Every shape at which OverLoCK's variants run ContMix, from the table of variants."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from overlock import VARIANTS
from overlock.blocks import REGIONS, SMALL_KERNEL
from overlock.contmix import enlarged_size
from overlock.model import KERNEL_SIZES

RESOLUTIONS = {"224": (224, 224, 8), "384": (384, 384, 4), "800x1280": (800, 1280, 1)}  # height, width, batch


@dataclass(frozen=True)
class Shape:
    """ContMix of B images, G heads, an H x W map; `query_channels` and `value_channels` of all heads together."""

    batch: int
    heads: int
    height: int
    width: int
    query_channels: int
    value_channels: int
    kernel: int

    def __str__(self) -> str:
        return f"{self.batch}x{self.heads}x{self.height}x{self.width}x{self.value_channels}-k{self.kernel}"

    @property
    def scale(self) -> float:
        return float((self.value_channels // self.heads) ** -0.5)

    def inputs(self, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        """The operator's seven tensors, maps channels_last as the models have them."""
        generator = torch.Generator().manual_seed(0)

        def random(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).to(dtype)

        taps, g = SMALL_KERNEL**2 + self.kernel**2, self.heads
        query = random(self.batch, self.query_channels, self.height, self.width)
        value = random(self.batch, self.value_channels, self.height, self.width)
        return [
            query.contiguous(memory_format=torch.channels_last),
            random(self.batch, self.query_channels, REGIONS, REGIONS),
            value.contiguous(memory_format=torch.channels_last),
            random(taps, REGIONS**2) / REGIONS,
            random(taps),
            random(g, 2 * SMALL_KERNEL - 1, 2 * SMALL_KERNEL - 1),
            random(g, 2 * self.kernel - 1, 2 * self.kernel - 1),
        ]

    def window_bytes(self, element_size: int = 4) -> int:
        """What the K x K half of a form that materialises windows holds at once: windows, logits and weights."""
        positions = self.batch * self.height * self.width * self.kernel**2
        return positions * (self.value_channels // 2 + 3 * self.heads) * element_size


def shapes_of(name: str, height: int, width: int, batch: int) -> list[Shape]:
    """Those of Focus-Net's two stages for an H x W image."""
    variant = VARIANTS[name]
    found = []
    for stage, stride in ((0, 16), (1, 32)):
        dim, heads, kernel = variant["dims"][2 + stage], 2 * variant["sub_num_heads"][stage], KERNEL_SIZES[2 + stage]
        size = -(-height // stride), -(-width // stride)
        size = enlarged_size(*size, kernel) or size
        found.append(Shape(batch, heads, *size, dim // 2, dim, kernel))
    return found


def every_shape() -> dict[str, Shape]:
    """By `<resolution>-<shape>`, each once."""
    found: dict[str, Shape] = {}
    for resolution, sizes in RESOLUTIONS.items():
        for name in VARIANTS:
            found |= {f"{resolution}-{shape}": shape for shape in shapes_of(name, *sizes)}
    return found
