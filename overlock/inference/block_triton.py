"""What stands between the convolutions of a folded block, by `block_kernels` (docs/gpu.md).

Experimental: the kernels have run in Triton's interpreter and been compiled for Hopper, but never run on a GPU. Nothing
takes them by itself: `fusions` is the switch. In units of a map (B, C, H, W), least and taken:

| function | reads | writes | operators one by one | multiply-adds of a value |
|---|---|---|---|---|
| `conv_norm` | 1 | 2 | 2 + 2 | 9 |
| `squeeze` | 1 | 0 | 1 + 0, and five launches | 1 |
| `gate_` | 2 | 1 | 5 + 4 | C |
"""

from __future__ import annotations

import torch
from torch import Tensor

from overlock.inference.fusions import kernel
from overlock.triton_tools import depth, next_power_of_2, on, precision

VALUES = 4096  # of a map, a program of `norm_kernel` or a step of `squeeze_kernel`
TOKENS, COLUMNS, DEPTH = 128, 128, 64  # of a product, a program
INNER = 16  # hidden channels of squeeze-and-excitation at a time


def conv_norm(
    x: Tensor, weight: Tensor, bias: Tensor, gain: Tensor, shift: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """A 3x3 depthwise convolution of x (B, C, H, W), channels_last, and LayerNorm over C of the result.

    Args:
        weight: (C, 1, 3, 3), with the identity of a residual folded in.
        bias, gain, shift: (C,)
    """
    batch, channels, height, width = x.shape
    out, norm = (torch.empty_like(x, memory_format=torch.channels_last) for _ in range(2))
    padded = next_power_of_2(channels)
    values = VALUES if x.element_size() == 2 else VALUES // 2  # float32: Triton 3.8 spills 432 bytes a thread
    positions = max(1, min(values // padded, next_power_of_2(height * width)))
    blocks = -(-height * width // positions)
    with on(x):
        kernel("block_kernels", "norm_kernel")[(batch * blocks,)](
            x, weight, bias, gain, shift, out, norm, height, width, channels, blocks, eps, MB=positions, CP=padded,
            num_warps=4,
        )  # fmt: skip
    return out, norm


def squeeze(y: Tensor, down: Tensor, down_bias: Tensor, up: Tensor, up_bias: Tensor) -> Tensor:
    """The gate (B, C, 1, 1) of squeeze-and-excitation of y (B, C, H, W), channels_last.

    Args:
        down: (I, C, 1, 1), and its bias (I,)
        up: (C, I, 1, 1), and its bias (C,)
    """
    batch, channels, height, width = y.shape
    out = torch.empty(batch, channels, 1, 1, dtype=y.dtype, device=y.device)
    padded, inner = next_power_of_2(channels), len(down_bias)
    tokens = max(1, min(VALUES // padded, next_power_of_2(height * width)))
    with on(y):
        kernel("block_kernels", "squeeze_kernel")[(batch,)](
            y, down, down_bias, up, up_bias, out, height * width, channels, inner, MB=tokens, CP=padded,
            IB=min(INNER, next_power_of_2(inner)), num_warps=8,
        )  # fmt: skip
    return out


def gate_(y: Tensor, factor: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """y = y * factor * SiLU(1x1 convolution of x), in place.

    Args:
        y, x: (B, N, H, W) and (B, C, H, W), channels_last.
        factor: (B, N, 1, 1)
        weight, bias: (N, C, 1, 1) and (N,)
    """
    batch, channels, height, width = x.shape
    columns, tokens = len(bias), batch * height * width
    block, across = min(TOKENS, next_power_of_2(tokens, 16)), min(COLUMNS, next_power_of_2(columns, 16))
    with on(x):
        kernel("block_kernels", "gate_kernel")[(-(-tokens // block) * -(-columns // across),)](
            x, weight, bias, factor, y, tokens, height * width, channels, columns, MB=block, NB=across,
            KB=depth(x, channels, DEPTH), PRECISION=_precision(x), num_warps=8, num_stages=3,
        )  # fmt: skip
    return y


def _precision(x: Tensor) -> str:
    return precision(x, torch.backends.cuda.matmul.allow_tf32)
