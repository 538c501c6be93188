"""The middle of an MLP: GELU, a residual 3x3 depthwise convolution and GRN over its hidden map, the network's widest.

As separate operators they write and keep four maps in the forward, and write four more in the backward. On a CPU one C
kernel (`native/hidden.h`) goes over the map a few rows at a time. It keeps the map before GELU and the norms of GRN,
and makes the rest again.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overlock import native
from overlock.layers import GRN, ResDWConv, response_norm
from overlock.tracing import differentiable, eager_autograd, why_not_read

CHANNELS = 16  # of a block: convolve.h
DTYPES = (torch.float32, torch.bfloat16)
KINDS = (nn.GELU, ResDWConv, GRN)


class _Hidden(ctypes.Structure):
    """`Hidden` of hidden.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "taps", "bias", "gamma", "beta", "norms")),
        *((name, ctypes.c_long) for name in ("batch", "height", "width", "channels")),
        ("bf16", ctypes.c_int),
        ("threads", ctypes.c_int),
    )


class _Gradients(ctypes.Structure):
    """`HiddenGradients` of hidden.h."""

    _fields_ = tuple((name, ctypes.c_void_p) for name in ("out", "x", "taps", "bias", "gamma", "beta"))


def why_not(x: Tensor) -> str | None:
    """The reason why the kernel does not take a hidden map (B, C, H, W), or None where it does."""
    if not (eager_autograd() and x.requires_grad):
        return "no gradient is recorded"
    if x.dtype not in DTYPES:
        return f"it takes float32 and bfloat16, not {x.dtype}"
    if x.shape[1] % CHANNELS:
        return f"{x.shape[1]} channels are not a multiple of {CHANNELS}"
    if not x.is_contiguous(memory_format=torch.channels_last) or x.numel() == 0:
        return "the map is not channels_last"
    return native.why_not(x)


def _identity(weight: Tensor) -> Tensor:
    return F.pad(weight.new_ones(1, 1, 1, 1), [1] * 4)


def hidden(x: Tensor, weight: Tensor, bias: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """GRN(y + 3x3(y)) of y = GELU(x), by PyTorch's operators: x (B, C, H, W), weight (C, 1, 3, 3), bias (C)."""
    y = F.conv2d(F.gelu(x), weight + _identity(weight), bias, padding=1, groups=len(weight))
    return response_norm(y, gamma, beta)


class _Kernel(torch.autograd.Function):
    """`hidden` by the C kernel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        norms = x.new_empty(x.shape[:2], dtype=torch.float32)
        out = torch.empty_like(x, memory_format=torch.channels_last)
        struct, _kept = _struct(x, norms, *parameters)
        native.call("hidden_forward", ctypes.byref(struct), native.pointer(out))
        ctx.save_for_backward(x, norms, *parameters)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        x, norms, *parameters = ctx.saved_tensors
        if torch.is_grad_enabled():
            return differentiable(hidden, (x, *parameters), grad)
        weight, bias, gamma, beta = parameters
        batch, channels = x.shape[:2]
        grad = grad.contiguous(memory_format=torch.channels_last)
        d_x = torch.empty_like(x, memory_format=torch.channels_last)
        d_taps = norms.new_empty(batch, 9, channels)
        d_bias, d_gamma, d_beta = norms.new_empty(3, batch, channels)
        struct, _kept = _struct(x, norms, *parameters)
        gradients = _Gradients(*(native.pointer(t) for t in (grad, d_x, d_taps, d_bias, d_gamma, d_beta)))
        native.call("hidden_backward", ctypes.byref(struct), ctypes.byref(gradients))
        d_weight = d_taps.sum(0).t().reshape(weight.shape)
        return (
            d_x,
            d_weight.to(weight.dtype),
            d_bias.sum(0).to(bias.dtype),
            d_gamma.sum(0).view(gamma.shape).to(gamma.dtype),
            d_beta.sum(0).view(beta.shape).to(beta.dtype),
        )


def _struct(
    x: Tensor, norms: Tensor, weight: Tensor, bias: Tensor, gamma: Tensor, beta: Tensor
) -> tuple[_Hidden, list[Tensor]]:
    """The kernel's view of its arguments, and the tensors that it points into."""
    batch, channels, height, width = x.shape
    taps = (weight.float() + _identity(weight).float()).flatten(1).t().contiguous()
    kept = [x, taps, *(t.float().contiguous() for t in (bias, gamma, beta)), norms]
    pointers = (native.pointer(t) for t in kept)
    return _Hidden(*pointers, batch, height, width, channels, x.dtype == torch.bfloat16, torch.get_num_threads()), kept


def _runs_as_one(layers: list[nn.Module]) -> bool:
    """Whether `layers` begin with the middle of an MLP, each layer as it was made."""
    if len(layers) < len(KINDS) or any(type(a) is not b for a, b in zip(layers, KINDS, strict=False)):
        return False
    activation, conv = layers[:2]
    exact = activation.approximate == "none" and conv.kernel_size == (3, 3)
    return exact and not any(why_not_read(layer) for layer in layers[: len(KINDS)])


class MLP(nn.Sequential):
    """Layers in turn; where they are the middle of an MLP, as one kernel."""

    def forward(self, x: Tensor) -> Tensor:
        layers = list(self)
        while layers:
            if eager_autograd() and _runs_as_one(layers) and why_not(x) is None:
                _, conv, norm, *layers = layers
                x = _Kernel.apply(x, conv.weight, conv.bias, norm.gamma, norm.beta)
            else:
                x = layers.pop(0)(x)
        return x
