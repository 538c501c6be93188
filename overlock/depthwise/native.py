"""Depthwise convolution on a CPU by a C kernel (`native/convolve.h`), of a channels_last map that keeps its size."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from overlock import native

CHANNELS = 16  # of a block: convolve.h
LONGEST = 33  # kernel
FASTER_FROM = 7
"""Kernel size from which it beats oneDNN; a 3x3 takes what reading and writing its map takes (docs/contmix.md)."""
SMALL_MAP = 1 << 17
"""Elements of a map up to which it beats oneDNN with any kernel: oneDNN takes 20 us more to begin."""
DTYPES = (torch.float32, torch.bfloat16)


class _Convolution(ctypes.Structure):
    """`Convolution` of convolve.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "out", "taps", "bias")),
        *((name, ctypes.c_long) for name in ("batch", "height", "width", "channels", "k")),
        ("gelu", ctypes.c_int),
        ("bf16", ctypes.c_int),
        ("threads", ctypes.c_int),
    )


def why_not(x: Tensor, kernel_size: int) -> str | None:
    """The reason why the kernel does not convolve a map (B, C, H, W), or None where it does."""
    if x.dtype not in DTYPES:
        return f"it takes float32 and bfloat16, not {x.dtype}"
    if kernel_size % 2 == 0 or kernel_size > LONGEST or x.shape[1] % CHANNELS:
        return f"it takes odd kernels up to {LONGEST} and multiples of {CHANNELS} channels"
    if not x.is_contiguous(memory_format=torch.channels_last) or x.numel() == 0:
        return "the map is not channels_last"
    return native.why_not(x)


def preferred(x: Tensor, kernel_size: int) -> bool:
    """Whether it runs, and faster than oneDNN's."""
    return (kernel_size >= FASTER_FROM or x.numel() <= SMALL_MAP) and why_not(x, kernel_size) is None


def taps_of(weight: Tensor) -> Tensor:
    """A depthwise weight (C, 1, k, k) as the kernel reads it: (k*k, C), float32."""
    return weight.detach().float().flatten(1).t().contiguous()


def convolve(x: Tensor, taps: Tensor, bias: Tensor | None) -> Tensor:
    """x (B, C, H, W), channels_last, zeros beside it, with the taps (k*k, C) and a bias (C) added."""
    out = torch.empty_like(x, memory_format=torch.channels_last)
    bias = None if bias is None else bias.detach().float().contiguous()
    batch, channels, height, width = x.shape
    struct = _Convolution(
        native.pointer(x),
        native.pointer(out),
        native.pointer(taps),
        None if bias is None else native.pointer(bias),
        batch,
        height,
        width,
        channels,
        round(taps.shape[0] ** 0.5),
        False,
        x.dtype == torch.bfloat16,
        torch.get_num_threads(),
    )
    native.call("depthwise_convolution", ctypes.byref(struct))
    return out
