"""The MLP of a folded block by `mlp_kernels`: two passes over the hidden map, written and read (docs/gpu.md).

Experimental: the kernels have run in Triton's interpreter and been compiled for Hopper, but never run on a GPU. Nothing
takes them by itself: `fusions` is the switch, and asks before.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from overlock.inference.fusions import kernel
from overlock.triton_tools import depth, next_power_of_2, on, precision

TOKENS, COLUMNS, DEPTH = 128, 128, 64  # of a product, a program
POSITIONS, CHANNELS = 64, 64  # of the 3x3, a program


class Weights(NamedTuple):
    """What the folded MLP holds: hidden channels N, channels C."""

    up: Tensor  # (N, C, 1, 1)
    up_bias: Tensor  # (N,)
    middle: Tensor  # (N, 1, 3, 3), the identity folded in
    middle_bias: Tensor  # (N,)
    gamma: Tensor  # (1, N, 1, 1)
    down: Tensor  # (C, N, 1, 1)
    down_bias: Tensor  # (C,)


def mlp_(
    residual: Tensor, x: Tensor, weights: Weights, scale: Tensor | None = None, factor: Tensor | None = None
) -> Tensor:
    """residual = residual * scale + down(GRN(conv3x3(GELU(up(x * factor))))), in place.

    Args:
        residual, x: (B, C, H, W), channels_last.
        scale: C values, or None for 1.
        factor: (B, C, 1, 1), or None for 1: the gate of squeeze-and-excitation.
    """
    batch, channels, height, width = x.shape
    hidden, tokens = len(weights.up_bias), height * width
    h, g = (torch.empty(batch, tokens, hidden, dtype=x.dtype, device=x.device) for _ in range(2))
    with on(x):
        block = min(TOKENS, next_power_of_2(batch * tokens, 16))
        columns = min(COLUMNS, next_power_of_2(hidden, 16))
        kernel("mlp_kernels", "up_kernel")[(-(-batch * tokens // block) * -(-hidden // columns),)](
            x, x if factor is None else factor, weights.up, weights.up_bias, h, batch * tokens, tokens, channels,
            hidden, FACTORED=factor is not None, MB=block, NB=columns, KB=depth(x, channels, DEPTH),
            PRECISION=_precision(x), num_warps=8, num_stages=3,
        )  # fmt: skip
        part = _local(h, weights.middle, weights.middle_bias, g, height, width, squares=True)
        norm = part.sum(1).sqrt_()
        factor = (norm * weights.gamma.float().view(1, -1)).div_(norm.mean(1, keepdim=True) + 1e-6).add_(1)
        _down(residual, g, weights.down, weights.down_bias, scale, factor)
    return residual


def conv_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """GELU of a 3x3 depthwise convolution of x (B, C, H, W), channels_last: weight (C, 1, 3, 3) and bias (C,)."""
    out = torch.empty_like(x, memory_format=torch.channels_last)
    with on(x):
        _local(x, weight, bias, out, x.shape[2], x.shape[3], gelu=True)
    return out


def add_product_(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor | None = None) -> Tensor:
    """out = out * scale + 1x1 convolution of x, in place.

    Args:
        out, x: (B, C, H, W) and (B, N, H, W), channels_last.
        weight, bias, scale: (C, N, 1, 1), (C,), and C values or None for 1.
    """
    with on(x):
        _down(out, x, weight, bias, scale, None)
    return out


def _local(
    h: Tensor, weight: Tensor, bias: Tensor, out: Tensor, height: int, width: int, squares: bool = False,
    gelu: bool = False,
) -> Tensor:  # fmt: skip
    """Fill `out` with the 3x3 convolution of h; returns sums of squares (B, parts, N), which may not be asked for."""
    batch, channels, tokens = h.shape[0], len(bias), height * width
    block, columns = min(POSITIONS, next_power_of_2(tokens, 16)), min(CHANNELS, next_power_of_2(channels, 16))
    blocks = -(-tokens // block)
    part = torch.empty(batch, blocks if squares else 0, channels, dtype=torch.float32, device=h.device)
    kernel("mlp_kernels", "middle_kernel")[(batch * blocks * -(-channels // columns),)](
        h, weight, bias, out, part, height, width, channels, blocks, SQUARES=squares, GELU=gelu, MB=block, NB=columns,
        num_warps=4,
    )  # fmt: skip
    return part


def _down(out: Tensor, g: Tensor, weight: Tensor, bias: Tensor, scale: Tensor | None, factor: Tensor | None) -> None:
    """out (B, C, H, W) = out * scale + (g * factor) weight^T + bias: g of N channels, factor (B, N) in float32."""
    batch, channels, height, width = out.shape
    tokens, hidden = height * width, weight.shape[1]
    block, columns = min(64, next_power_of_2(tokens, 16)), min(COLUMNS, next_power_of_2(channels, 16))
    blocks = -(-tokens // block)
    kernel("mlp_kernels", "down_kernel")[(batch * blocks * -(-channels // columns),)](
        g, bias if factor is None else factor, weight, bias, bias if scale is None else scale, out, tokens, hidden,
        channels, blocks, FACTORED=factor is not None, SCALED=scale is not None, MB=block, NB=columns,
        KB=depth(g, hidden, DEPTH), PRECISION=_precision(g), num_warps=4, num_stages=3,
    )  # fmt: skip


def _precision(x: Tensor) -> str:
    return precision(x, torch.backends.cuda.matmul.allow_tf32)
