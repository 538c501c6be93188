"""The shapes that real models meet: of ContMix and of large depthwise convolutions, from the table of variants."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from overlock.blocks import REGIONS, SMALL_KERNEL
from overlock.contmix import enlarged_size
from overlock.contmix.inputs import Inputs
from overlock.model import KERNEL_SIZES
from overlock.variants import VARIANTS

STRIDES = (4, 8, 16, 32)  # of the four stages' maps


@dataclass(frozen=True)
class ContMixShape:
    """B images, G heads, an H x W map and a K x K kernel; the channels are of all heads together."""

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
        """The factor of the affinities."""
        return float((self.value_channels // self.heads) ** -0.5)

    def inputs(self, dtype: torch.dtype = torch.float32, device: str = "cpu", seed: int = 0) -> Inputs:
        """Random tensors, with maps in channels_last as the models have them."""
        generator = torch.Generator().manual_seed(seed)

        def random(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).to(device, dtype)

        def random_map(channels: int) -> Tensor:
            x = random(self.batch, channels, self.height, self.width)
            return x.contiguous(memory_format=torch.channels_last)

        taps = SMALL_KERNEL**2 + self.kernel**2
        return Inputs(
            random_map(self.query_channels),
            random(self.batch, self.query_channels, REGIONS, REGIONS),
            random_map(self.value_channels),
            random(taps, REGIONS**2) / REGIONS,
            random(taps),
            *(random(self.heads, 2 * k - 1, 2 * k - 1) for k in (SMALL_KERNEL, self.kernel)),
        )


@dataclass(frozen=True)
class DepthwiseShape:
    """C channels of an H x W map and a K x K kernel."""

    channels: int
    height: int
    width: int
    kernel: int


def _map(stage: int, height: int, width: int) -> tuple[int, int]:
    stride = STRIDES[stage - 1]
    return -(-height // stride), -(-width // stride)


def contmix_shapes(name: str, height: int, width: int, batch: int = 1) -> dict[str, ContMixShape]:
    """ContMix in `stage 3` and `stage 4` (Focus-Net) of the variant `name`, for images of height x width pixels."""
    shapes, variant = {}, VARIANTS[name]
    for stage, heads in zip((3, 4), variant["sub_num_heads"], strict=True):
        dim, kernel = variant["dims"][stage - 1], KERNEL_SIZES[stage - 1]
        size = _map(stage, height, width)
        size = enlarged_size(*size, kernel) or size
        shapes[f"stage {stage}"] = ContMixShape(batch, 2 * heads, *size, dim // 2, dim, kernel)
    return shapes


def depthwise_shapes(name: str, height: int, width: int) -> dict[str, DepthwiseShape]:
    """The large convolutions in `stage 1` to `stage 4` of the variant `name`, for images of height x width pixels."""
    sizes = zip((1, 2, 3, 4), VARIANTS[name]["dims"], KERNEL_SIZES, strict=True)
    return {f"stage {i}": DepthwiseShape(dim, *_map(i, height, width), kernel) for i, dim, kernel in sizes}
