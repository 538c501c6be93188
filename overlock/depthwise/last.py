"""Large depthwise convolution of channels_last maps by `last_kernels`: the operator `overlock::depthwise_last`.

It reads and writes maps as they are, where `triton` copies them into padded rows, and adds bias and activation before
it writes. Without gradients: it is for inference. Experimental: the kernel has run in Triton's interpreter and been
compiled for Hopper, but never run on a GPU.

What it must do at least: read the map and write it, B * C * H * W values each, and B * C * H * W * K * K multiply-adds;
what it does: each value is loaded (R + K - 1) / R * S / N times, from the caches but for the first, and K * S
multiply-adds an output (docs/gpu.md). Its floor is `bench.gpu.floors.depthwise_work`.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from overlock.depthwise.triton import DTYPES, KERNEL_SIZES, Tile
from overlock.triton_tools import installed, interpreted, next_power_of_2, on, precision, prepared

CHANNELS = 8  # a program: 16 bytes of two-byte values
LIMIT = 2**31  # values of a map: offsets have 32 bits
ACTIVATIONS = ("gelu", "silu")


class Launch(NamedTuple):
    """How the kernel is cut: groups and output rows a program, and warps, of which each takes its own channels."""

    groups: int
    rows: int
    warps: int = 8


LAUNCHES = (Launch(32, 4), Launch(16, 8))
"""What `bench.gpu_run` times; the first is the default until a run says which wins."""

launch = LAUNCHES[0]
"""The launch in use."""


@functools.lru_cache(maxsize=1)
def _kernel() -> Any:
    return importlib.import_module("overlock.depthwise.last_kernels").depthwise_last_kernel


def interpreting() -> bool:
    """Whether the kernel runs in Triton's interpreter."""
    return interpreted(_kernel())


def suits(x: Tensor, kernel_size: int) -> bool:
    """Whether the kernel is made for x (B, C, H, W), wherever it is. Traced by torch.compile: it asks for no Triton."""
    if x.dtype not in DTYPES or (x.dtype == torch.float32 and x.is_cuda and not torch.backends.cudnn.allow_tf32):
        return False  # matrix units round float32 to TF32
    if kernel_size not in KERNEL_SIZES or x.shape[1] % CHANNELS or x.numel() >= LIMIT:
        return False
    return x.is_contiguous(memory_format=torch.channels_last)


def why_not(x: Tensor, weight: Tensor) -> str | None:
    """The reason why x (B, C, H, W) and weight (C, 1, K, K) cannot be convolved here, or None where they can."""
    if not installed():
        return "Triton is not installed"
    if x.dtype not in DTYPES:
        return f"the kernel takes float32, bfloat16 and float16, not {str(x.dtype).removeprefix('torch.')}"
    if weight.shape[-1] not in KERNEL_SIZES:
        return f"the kernel has sizes {', '.join(map(str, KERNEL_SIZES))}, not {weight.shape[-1]}"
    if x.shape[1] % CHANNELS:
        return f"it takes multiples of {CHANNELS} channels, not {x.shape[1]}"
    if x.numel() >= LIMIT:
        return "it takes maps of less than 2^31 values"
    if not x.is_contiguous(memory_format=torch.channels_last):
        return "the map is not channels_last"
    if x.is_cuda:
        return None if suits(x, weight.shape[-1]) else "in float32 it multiplies in TF32, which is not allowed"
    if x.device.type == "cpu" and interpreting():
        return None
    return f"it needs a CUDA device, and the map is on {x.device.type}"


def depthwise_last(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None = None) -> Tensor:
    """The activation of a depthwise convolution of stride 1 that keeps the map's size; it has no gradient.

    Args:
        x: (B, C, H, W), channels_last.
        weight: (C, 1, K, K)
        bias: (C,)
        activation: `gelu` (exact), `silu` or None.

    Returns:
        (B, C, H, W), channels_last.

    Raises:
        ValueError: where the kernel cannot run, with the reason.
    """
    out: Tensor = torch.ops.overlock.depthwise_last(x, weight, bias, activation)
    return out


@torch.library.custom_op("overlock::depthwise_last", mutates_args=())
def depthwise_last_op(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None) -> Tensor:
    reason = why_not(x, weight)
    if reason is not None:
        raise ValueError(f"no depthwise convolution by Triton of a channels_last map: {reason}")
    assert activation is None or activation in ACTIVATIONS
    out = torch.empty_like(x, memory_format=torch.channels_last)
    if out.numel():
        convolve(x, weight, bias, activation, out)
    return out


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None, out: Tensor) -> None:
    """Fill `out` by the kernel."""
    batch, channels, height, width = x.shape
    k = weight.shape[-1]
    tile = Tile.of(width, k)
    rows = min(launch.rows, next_power_of_2(height))
    across, down = tile.across(width), -(-height // rows)
    groups = batch * across * down
    m = max(16, min(launch.groups, next_power_of_2(groups)))
    bands = prepared(weight, ("bands", tile, 1, False), lambda: tile.bands(weight, 1, False))
    with on(x):
        _kernel()[(channels // CHANNELS * -(-groups // m),)](
            x, bands, bands if bias is None else bias, out, channels, groups, height, width, across, down,
            K=k, CHANNELS=CHANNELS, S=tile.read, M=m, R=rows, N=tile.columns, MARGIN=tile.margin,
            BIAS=bias is not None, ACTIVATION=activation or "", PRECISION=_precision(x), num_warps=launch.warps,
            num_stages=1,
        )  # fmt: skip


def _precision(x: Tensor) -> str:
    return precision(x, torch.backends.cudnn.allow_tf32)


@depthwise_last_op.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None) -> Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last)


@register_flop_formula(torch.ops.overlock.depthwise_last, get_raw=False)
def _flops(x: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * x[0] * x[1] * x[2] * x[3] * weight[-1] ** 2
