"""Parallel depthwise convolutions of one map, with gradients that a CPU computes quickly.

PyTorch's CPU gradient of a large depthwise kernel walks every tap over the whole map: 199 ms for the 17x17 of stage 1
where its forward takes 4. Both gradients are convolutions, so they need not be slow (docs/contmix.md):

- the input's is the output's gradient convolved with the flipped kernel: the forward's fast path;
- the weight's is the correlation of input and output gradient at the kernel's lags. For all but the smallest kernels it
  is made by FFT, which costs the same for any of them, the input's transform shared by the branches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from .plain import own_backward, under_autocast

FFT_FROM = 7  # kernel size; below it the direct sum is faster


def fast_size(x: Tensor, kernel_size: int) -> int:
    """Kernel size at which a CPU convolves x (B, C, H, W) depthwise fastest, the kernel in a frame of zeros.

    On channels_last maps oneDNN has a kernel for 15x15 and more that does 115 to 145 GMAC/s on two AVX-512 cores where
    the one for 9x9 to 13x13 does 40 to 70 (docs/contmix.md): 13x13 runs in half the time as 15x15.
    """
    lays = x.is_contiguous(memory_format=torch.channels_last) and x.dtype in (torch.float32, torch.bfloat16)
    usable = x.device.type == "cpu" and torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled
    return 15 if 9 <= kernel_size < 15 and lays and usable else kernel_size


def dilate_kernel(weight: Tensor, dilation: int, kernel_size: int) -> Tensor:
    """Spread a depthwise kernel (C, 1, k, k) over its dilation grid and centre it in (C, 1, K, K)."""
    channels, _, k, _ = weight.shape
    span = dilation * (k - 1) + 1
    start = (kernel_size - span) // 2
    assert start >= 0, f"a {k}x{k} kernel of dilation {dilation} does not fit into {kernel_size}x{kernel_size}"
    out = weight.new_zeros(channels, 1, kernel_size, kernel_size)
    out[:, :, start : start + span : dilation, start : start + span : dilation] = weight
    return out


def _fast_length(size: int) -> int:
    """The next length that has no prime factor above 5."""
    while True:
        rest = size
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return size
        size += 1


class Correlation:
    """Weight gradients of depthwise kernels over one input (B, C, H, W), for lags of up to `reach` positions."""

    def __init__(self, x: Tensor, reach: int) -> None:
        self.size = [_fast_length(n + reach) for n in x.shape[-2:]]
        self.dtype = torch.promote_types(x.dtype, torch.float32)
        self.spectrum = self._transform(x)

    def _transform(self, x: Tensor) -> Tensor:
        return torch.fft.rfft2(x.to(self.dtype).contiguous(), s=self.size)

    def weight_grad(self, grad: Tensor, kernel_size: int, dilation: int) -> Tensor:
        """sum over images and positions of grad[i, j] * x[i + r u, j + r v], u and v centred: (C, 1, k, k)."""
        product = (self.spectrum * self._transform(grad).conj_physical()).sum(0)
        lags = torch.fft.irfft2(product, s=self.size)
        taps = (torch.arange(kernel_size, device=grad.device) - kernel_size // 2) * dilation
        rows, cols = (taps % n for n in self.size)
        return lags[:, rows[:, None], cols][:, None].to(grad.dtype)


def _padding(weight: Tensor, dilation: int) -> int:
    return dilation * (weight.shape[-1] // 2)


def _convolve(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    if dilation > 1 and dilation * (weight.shape[-1] - 1) >= 14 and weight.shape[-1] >= 9:
        weight, dilation = dilate_kernel(weight, dilation, dilation * (weight.shape[-1] - 1) + 1), 1
    size = fast_size(x, weight.shape[-1]) if dilation == 1 else weight.shape[-1]
    if size != weight.shape[-1]:
        weight = F.pad(weight, [(size - weight.shape[-1]) // 2] * 4)
    return F.conv2d(x, weight, None, 1, _padding(weight, dilation), dilation, weight.shape[0])


class _ParallelConvs(torch.autograd.Function):
    """Depthwise convolutions of stride 1 that keep the map's size, without bias: one output each."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dilations: Sequence[int], *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, *weights)
        ctx.dilations = dilations
        return tuple(_convolve(x, weight, r) for weight, r in zip(weights, dilations, strict=True))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        needs_x, _, *needs_weight = ctx.needs_input_grad
        branches = list(zip(weights, ctx.dilations, grads, needs_weight, strict=True))
        grad_x = None
        if needs_x:
            for weight, r, grad, _ in branches:
                part = _convolve(grad, weight.flip(2, 3), r)
                grad_x = part if grad_x is None else grad_x.add_(part)
        reach = max((_padding(w, r) for w, r, _, needed in branches if needed and w.shape[-1] >= FFT_FROM), default=0)
        correlation = Correlation(x, reach) if reach else None
        grad_weights: list[Tensor | None] = []
        for weight, r, grad, needed in branches:
            k = weight.shape[-1]
            if not needed:
                grad_weights.append(None)
            elif correlation is not None and k >= FFT_FROM:
                grad_weights.append(correlation.weight_grad(grad, k, r))
            else:
                grad_weights.append(conv2d_weight(x, weight.shape, grad, 1, _padding(weight, r), r, weight.shape[0]))
        return grad_x, None, *grad_weights


def parallel_convs(x: Tensor, convs: Sequence[nn.Conv2d]) -> Sequence[Tensor]:
    """Each of `convs` on x (B, C, H, W): depthwise ones of stride 1, without bias, that keep the map's size."""
    if x.device.type != "cpu" or under_autocast("cpu") or not own_backward():
        return [conv(x) for conv in convs]
    outputs: tuple[Tensor, ...] = _ParallelConvs.apply(
        x, [conv.dilation[0] for conv in convs], *(conv.weight for conv in convs)
    )
    return outputs
