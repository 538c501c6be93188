"""The MLP of a folded block by `mlp_kernels`: two passes over the hidden map, written and read (docs/gpu.md).

Experimental: the kernels have run in Triton's interpreter and been compiled for Hopper, but never run on a GPU. Nothing
takes them by itself: OVERLOCK_MLP=triton, or `use("triton")`, has the folded blocks run them where they can.
"""

from __future__ import annotations

import functools
import importlib
import os
from typing import Any, NamedTuple

import torch
from torch import Tensor

from overlock.tracing import is_captured
from overlock.triton_tools import installed, interpreted, next_power_of_2, on, precision

VARIABLE = "OVERLOCK_MLP"
TORCH, TRITON = "torch", "triton"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
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


_chosen = TORCH


def use(what: str) -> None:
    """Have folded MLPs run by PyTorch (`torch`) or by these kernels wherever they can (`triton`).

    Raises:
        ValueError: if it is neither, or there is no Triton.
    """
    global _chosen
    if what not in (TORCH, TRITON):
        raise ValueError(f"{VARIABLE}={what}: give {TORCH} or {TRITON}")
    if what == TRITON and not installed():
        raise ValueError(f"{VARIABLE}={what}: Triton is not installed")
    _chosen = what


@functools.lru_cache(maxsize=1)
def _kernels() -> Any:
    return importlib.import_module("overlock.inference.mlp_kernels")


def why_not(residual: Tensor, x: Tensor) -> str | None:
    """The reason why an MLP does not run by these kernels, or None where it does."""
    if _chosen != TRITON:
        return f"{VARIABLE} is {_chosen}"
    if is_captured():
        return "traced, for a compiler to fuse"
    if x.dtype not in DTYPES:
        return f"the kernels take float32, bfloat16 and float16, not {str(x.dtype).removeprefix('torch.')}"
    if not all(t.is_contiguous(memory_format=torch.channels_last) for t in (residual, x)):
        return "a map is not channels_last"
    if x.is_cuda or (x.device.type == "cpu" and interpreted(_kernels().up_kernel)):
        return None
    return f"it needs a CUDA device, and the map is on {x.device.type}"


def mlp_(residual: Tensor, x: Tensor, weights: Weights, scale: Tensor | None = None) -> Tensor:
    """residual = residual * scale + down(GRN(conv3x3(GELU(up(x))))), in place.

    Args:
        residual, x: (B, C, H, W), channels_last.
        scale: C values, or None for 1.
    """
    batch, channels, height, width = x.shape
    hidden, tokens = len(weights.up_bias), height * width
    dtype, rounds = x.dtype, {"PRECISION": precision(x, torch.backends.cuda.matmul.allow_tf32)}
    h, g = (torch.empty(batch, tokens, hidden, dtype=dtype, device=x.device) for _ in range(2))
    depth = min(DEPTH, next_power_of_2(channels, 16))
    with on(x):
        block = min(TOKENS, next_power_of_2(batch * tokens, 16))
        columns = min(COLUMNS, next_power_of_2(hidden, 16))
        _kernels().up_kernel[(-(-batch * tokens // block) * -(-hidden // columns),)](
            x, weights.up, weights.up_bias, h, batch * tokens, channels, hidden, MB=block, NB=columns, KB=depth,
            num_warps=8, num_stages=3, **rounds,
        )  # fmt: skip
        block, columns = min(POSITIONS, next_power_of_2(tokens, 16)), min(CHANNELS, next_power_of_2(hidden, 16))
        blocks = -(-tokens // block)
        part = torch.empty(batch, blocks, hidden, dtype=torch.float32, device=x.device)
        _kernels().middle_kernel[(batch * blocks * -(-hidden // columns),)](
            h, weights.middle, weights.middle_bias, g, part, height, width, hidden, blocks, MB=block, NB=columns,
            num_warps=4,
        )  # fmt: skip
        norm = part.sum(1).sqrt_()
        factor = (norm * weights.gamma.float().view(1, -1)).div_(norm.mean(1, keepdim=True) + 1e-6).add_(1)
        block, columns = min(64, next_power_of_2(tokens, 16)), min(COLUMNS, next_power_of_2(channels, 16))
        blocks = -(-tokens // block)
        _kernels().down_kernel[(batch * blocks * -(-channels // columns),)](
            g, factor, weights.down, weights.down_bias, weights.down_bias if scale is None else scale, residual,
            tokens, hidden, channels, blocks, SCALED=scale is not None, MB=block, NB=columns,
            KB=min(DEPTH, next_power_of_2(hidden, 16)), num_warps=4, num_stages=3, **rounds,
        )  # fmt: skip
    return residual


use(os.environ.get(VARIABLE, TORCH))
