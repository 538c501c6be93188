"""ContMix, the definition: what every other implementation is tested against.

Each query compares itself with R region centres (the keys), a learned projection turns these R affinities into the taps
of two kernels of its own (5x5 and KxK), and both kernels are applied to the map around it (OverLoCK, section 3.3).

Shapes: B batch, G heads, c channels of one head, H W map, N = H*W, R regions, k kernel size, T = 5*5 + K*K taps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from overlock.contmix.inputs import Inputs, window_size


def window_starts(size: int, kernel_size: int, device: torch.device | None = None) -> Tensor:
    """First index of each position's window along one axis, (size,): shifted to stay inside, never truncated."""
    return (torch.arange(size, device=device) - kernel_size // 2).clamp(0, size - kernel_size)


def window_indices(size: int, kernel_size: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Along one axis, (size, k) each: the index every tap reads, and where in the bias table its bias stands."""
    reads = window_starts(size, kernel_size, device)[:, None] + torch.arange(kernel_size, device=device)
    biases = reads - torch.arange(size, device=device)[:, None] + kernel_size - 1
    return reads, biases


def aggregate(logits: Tensor, value: Tensor, rpb: Tensor) -> Tensor:
    """softmax(logits + bias) over each query's window, applied to the window's values.

    Args:
        logits: (B, G, H, W, k*k), taps row-major.
        value: (B, G, c, H, W), H and W at least k.
        rpb: (G, 2k-1, 2k-1), relative-position bias.

    Returns:
        (B, G, c, H, W)
    """
    height, width = value.shape[-2:]
    k = window_size(rpb)
    rows, row_biases = window_indices(height, k, value.device)
    cols, col_biases = window_indices(width, k, value.device)
    bias = rpb[:, row_biases[:, None, :, None], col_biases[None, :, None, :]]  # G, H, W, k, k
    weights = (logits + bias.flatten(-2)).softmax(dim=-1)
    windows = value[..., rows[:, None, :, None], cols[None, :, None, :]]  # B, G, c, H, W, k, k
    return torch.einsum("bghwt,bgchwt->bgchw", weights, windows.flatten(-2))


def forward(inputs: Inputs, scale: float) -> Tensor:
    """ContMix as it is defined: (B, C, H, W)."""
    query, key, value, proj_weight, proj_bias, rpb1, rpb2 = inputs
    batch, channels, height, width = value.shape
    heads = rpb1.shape[0]
    q = query.reshape(batch, heads, -1, height * width) * scale
    k = key.reshape(batch, heads, q.shape[2], -1)
    affinities = torch.einsum("bgcn,bgcr->bgnr", q, k)
    logits = affinities @ proj_weight.t() + proj_bias
    logits = logits.reshape(batch, heads, height, width, -1)
    small = window_size(rpb1) ** 2
    small_value, large_value = value.reshape(batch, 2, heads, -1, height, width).unbind(1)
    small_out = aggregate(logits[..., :small], small_value, rpb1)
    large_out = aggregate(logits[..., small:], large_value, rpb2)
    return torch.stack([small_out, large_out], dim=1).reshape(batch, channels, height, width)


def backward(grad: Tensor, inputs: Inputs, scale: float) -> Inputs:
    """The gradients of the seven tensors, by autograd of the definition."""
    _, gradients = torch.func.vjp(lambda *x: forward(Inputs(*x), scale), *inputs)  # type: ignore[misc]
    return Inputs(*gradients(grad))


def why_not(value: Tensor) -> str | None:
    """None: the definition runs on anything."""
    return None
