"""GRN, and the 3x3 depthwise convolution before it, in place by one C kernel (`overlock/native`).

As separate operators they read or write the widest map of a network seven times and map a second one afresh.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from overlock import native
from overlock.inference import convolution
from overlock.inference.prepacked import packed_taps

LANES = 16  # the kernel takes whole vectors of channels


def why_not(x: Tensor) -> str | None:
    """The reason why a map (B, C, H, W) is not normalised by the kernel, or None where it is."""
    reason = convolution.why_not(x)
    if reason is not None:
        return reason
    if x.shape[1] % LANES:
        return f"{x.shape[1]} channels are not a multiple of {LANES}"
    if not x.is_contiguous(memory_format=torch.channels_last):
        return "the map is not channels_last"
    return native.why_not(x)


class _Grn(ctypes.Structure):
    """`Grn` of grn.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "taps", "bias", "gamma", "beta")),
        *((name, ctypes.c_long) for name in ("batch", "height", "width", "channels")),
        ("bf16", ctypes.c_int),
        ("threads", ctypes.c_int),
    )


def normalise_(
    x: Tensor, gamma: Tensor, beta: Tensor | None, conv: tuple[Tensor, Tensor | None] | None = None
) -> Tensor:
    """x * (1 + gamma * norm / mean of norms) + beta in place, norms over H and W, of x or its convolution.

    Args:
        x: (B, C, H, W), channels_last, float32 or bfloat16.
        gamma, beta: (1, C, 1, 1).
        conv: weight (C, 1, 3, 3) and bias (C,) of a depthwise convolution, size kept.
    """
    channels = x.shape[1]
    kept = [None, None, gamma.float().contiguous(), None if beta is None else beta.float().contiguous()]
    if conv is not None:
        weight, bias = conv
        assert weight.shape == (channels, 1, 3, 3)
        kept[0] = packed_taps(weight)
        kept[1] = weight.new_zeros(channels, dtype=torch.float32) if bias is None else bias.float().contiguous()
    struct = _Grn(
        native.pointer(x),
        *(None if t is None else native.pointer(t) for t in kept),
        x.shape[0],
        x.shape[2],
        x.shape[3],
        channels,
        x.dtype == torch.bfloat16,
        torch.get_num_threads(),
    )
    native.call("grn_", ctypes.byref(struct))
    return x
