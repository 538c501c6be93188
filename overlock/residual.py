"""A residual connection: LayerScale of what goes past a branch, and stochastic depth of the branch.

As separate operators they take three passes over the maps in the forward, and six in the backward. On a CPU a C kernel
(`native/residual.h`) takes one each.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from overlock import native
from overlock.layers import LayerScale
from overlock.tracing import differentiable, eager_autograd, why_not_read

LANES = 16  # the kernel takes whole vectors of channels
DTYPES = (torch.float32, torch.bfloat16)


class _Residual(ctypes.Structure):
    """`Residual` of residual.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "bias", "share")),
        *((name, ctypes.c_long) for name in ("batch", "tokens", "channels")),
        ("bf16", ctypes.c_int),
        ("threads", ctypes.c_int),
    )


def why_not(x: Tensor, y: Tensor, scale: nn.Module, drop_path: nn.Module) -> str | None:
    """The reason why the kernel does not join x and y (B, C, H, W) by these layers, or None where it does."""
    if not (eager_autograd() and x.requires_grad and y.requires_grad):
        return "no gradient is recorded"
    if type(scale) is not LayerScale or type(drop_path) not in (DropPath, nn.Identity):
        return "it takes a LayerScale and a DropPath"
    if why_not_read(scale) or why_not_read(drop_path):
        return "a layer is not as it was made"
    if x.dtype not in DTYPES or x.dtype != y.dtype or x.shape[1] % LANES:
        return f"it takes float32 and bfloat16, and multiples of {LANES} channels"
    if not all(t.is_contiguous(memory_format=torch.channels_last) for t in (x, y)) or x.shape != y.shape:
        return "the maps are not channels_last"
    return native.why_not(x) or native.why_not(y)


def residual(x: Tensor, y: Tensor, scale: nn.Module, drop_path: nn.Module) -> Tensor:
    """scale(x) + drop_path(y), of maps (B, C, H, W)."""
    if why_not(x, y, scale, drop_path) is not None:
        out: Tensor = scale(x) + drop_path(y)
        return out
    assert isinstance(scale, LayerScale)
    share = drop_path(y.new_ones(len(y), 1, 1, 1))  # the same random numbers as for a map
    joined: Tensor = _Kernel.apply(x, y, share, scale.weight, scale.bias)
    return joined


def _join(x: Tensor, y: Tensor, share: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.addcmul(torch.addcmul(bias.view(-1, 1, 1), x, weight.squeeze(-1)), y, share)


class _Kernel(torch.autograd.Function):
    """`_join` by the C kernel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, share: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        out = torch.empty_like(x, memory_format=torch.channels_last)
        struct, _kept = _struct(x, share, weight, bias)
        native.call("residual_forward", ctypes.byref(struct), *map(native.pointer, (x, y, out)))
        ctx.save_for_backward(x, share, weight, bias)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, share, weight, bias = ctx.saved_tensors
        if torch.is_grad_enabled():
            given = (x, torch.zeros_like(x), weight, bias)  # y is not kept: nothing of its gradient depends on it
            d_x, d_y, d_weight, d_bias = differentiable(
                lambda x, y, weight, bias: _join(x, y, share, weight, bias), given, grad
            )
            return d_x, d_y, None, d_weight, d_bias
        grad = grad.contiguous(memory_format=torch.channels_last)
        parts = min(4 * torch.get_num_threads(), max(1, len(x)))
        d_x, d_y = (torch.empty_like(x, memory_format=torch.channels_last) for _ in range(2))
        d_weight, d_bias = x.new_empty(2, parts, x.shape[1], dtype=torch.float32)
        struct, _kept = _struct(x, share, weight, bias)
        pointers = [native.pointer(t) for t in (grad, x, d_x, d_y, d_weight, d_bias)]
        native.call("residual_backward", ctypes.byref(struct), *pointers[:2], ctypes.c_long(parts), *pointers[2:])
        return (
            d_x,
            d_y,
            None,
            d_weight.sum(0).view(weight.shape).to(weight.dtype),
            d_bias.sum(0).to(bias.dtype),
        )


def _struct(x: Tensor, share: Tensor, weight: Tensor, bias: Tensor) -> tuple[_Residual, list[Tensor]]:
    """The kernel's view of its arguments, and the tensors that it points into."""
    kept = [t.detach().float().contiguous() for t in (weight, bias, share)]
    batch, channels, height, width = x.shape
    struct = _Residual(
        *(native.pointer(t) for t in kept),
        batch,
        height * width,
        channels,
        x.dtype == torch.bfloat16,
        torch.get_num_threads(),
    )
    return struct, kept
