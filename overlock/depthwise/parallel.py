"""Parallel depthwise convolutions of one map, with gradients that a CPU computes quickly.

PyTorch's CPU gradient of a large depthwise kernel walks every tap over the whole map: 199 ms for the 17x17 of stage 1
where its forward takes 4. Both gradients are convolutions, so they need not be slow (docs/contmix.md):

- the input's is the output's gradient convolved with the flipped kernel: the forward's fast path;
- the weight's is the correlation of input and output gradient at the kernel's lags, taken by a C kernel that keeps the
  sums of the taps in registers (`overlock/native`), or without it, for all but the smallest kernels, by FFT.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from scipy.fft import next_fast_len
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from overlock import native
from overlock.depthwise import dispatch
from overlock.depthwise import native as native_forward
from overlock.tracing import differentiable, eager_autograd, under_autocast, why_not_read

FFT_FROM = 7  # kernel size; below it the direct sum is faster
NATIVE_SIZES = (3, 5, 7, 9, 11, 13, 15, 17)  # native/depthwise.h
NATIVE_LANES = 16


def fast_size(x: Tensor, kernel_size: int) -> int:
    """Kernel size at which a CPU convolves x (B, C, H, W) depthwise fastest, the kernel in a frame of zeros.

    On channels_last maps oneDNN has a kernel for 15x15 and more that does 115 to 145 GMAC/s on two AVX-512 cores where
    the one for 9x9 to 13x13 does 40 to 70 (docs/contmix.md): 13x13 runs in half the time as 15x15.
    """
    suits = x.is_contiguous(memory_format=torch.channels_last) and x.dtype in (torch.float32, torch.bfloat16)
    usable = x.device.type == "cpu" and torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled
    return 15 if 9 <= kernel_size < 15 and suits and usable else kernel_size


def dilate_kernel(weight: Tensor, dilation: int, kernel_size: int) -> Tensor:
    """Spread a depthwise kernel (C, 1, k, k) over its dilation grid and centre it in (C, 1, K, K)."""
    channels, _, k, _ = weight.shape
    span = dilation * (k - 1) + 1
    start = (kernel_size - span) // 2
    assert start >= 0, f"a {k}x{k} kernel of dilation {dilation} does not fit into {kernel_size}x{kernel_size}"
    out = weight.new_zeros(channels, 1, kernel_size, kernel_size)
    out[:, :, start : start + span : dilation, start : start + span : dilation] = weight
    return out


class Correlation:
    """Weight gradients of depthwise kernels over one input (B, C, H, W), for lags of up to `reach` positions."""

    def __init__(self, x: Tensor, reach: int) -> None:
        self.size = [next_fast_len(n + reach, real=True) for n in x.shape[-2:]]
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


class _Depthwise(ctypes.Structure):
    """`Depthwise` of native/depthwise.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "grad", "weight")),
        *((name, ctypes.c_long) for name in ("batch", "height", "width", "channels", "k", "dilation")),
        ("bf16", ctypes.c_int),
        ("threads", ctypes.c_int),
    )


def why_not(x: Tensor, kernel_size: int) -> str | None:
    """The reason why the C kernel does not take the gradient of a k x k kernel over x, or None where it does."""
    if x.dtype not in (torch.float32, torch.bfloat16):
        return f"it takes float32 and bfloat16, not {x.dtype}"
    if kernel_size not in NATIVE_SIZES or x.shape[1] % NATIVE_LANES:
        return f"it takes kernels of {NATIVE_SIZES} and multiples of {NATIVE_LANES} channels"
    return native.why_not(x)


def native_weight_grad(x: Tensor, grad: Tensor, kernel_size: int, dilation: int) -> Tensor:
    """As `Correlation.weight_grad`: (B, C, H, W) twice -> (C, 1, k, k)."""
    x, grad = (t.contiguous(memory_format=torch.channels_last) for t in (x, grad))
    batch, channels, height, width = x.shape
    weight = torch.empty(kernel_size, kernel_size, channels, dtype=torch.float32)
    sizes = (batch, height, width, channels, kernel_size, dilation)
    pointers = (native.pointer(t) for t in (x, grad, weight))
    struct = _Depthwise(*pointers, *sizes, x.dtype == torch.bfloat16, torch.get_num_threads())
    native.call("depthwise_weight_gradient", ctypes.byref(struct))
    return weight.permute(2, 0, 1)[:, None].to(grad.dtype)


def _padding(weight: Tensor, dilation: int) -> int:
    return dilation * (weight.shape[-1] // 2)


def _convolve(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    if dilation > 1 and dilation * (weight.shape[-1] - 1) >= 14 and weight.shape[-1] >= 9:
        weight, dilation = dilate_kernel(weight, dilation, dilation * (weight.shape[-1] - 1) + 1), 1
    if dilation == 1 and native_forward.preferred(x, weight.shape[-1]):
        return native_forward.convolve(x, native_forward.taps_of(weight), None)
    size = fast_size(x, weight.shape[-1]) if dilation == 1 else weight.shape[-1]
    if size != weight.shape[-1]:
        weight = F.pad(weight, [(size - weight.shape[-1]) // 2] * 4)
    return F.conv2d(x, weight, None, 1, _padding(weight, dilation), dilation, weight.shape[0])


def _outputs(x: Tensor, dilations: Sequence[int], weights: Sequence[Tensor]) -> list[Tensor]:
    """By PyTorch's operators."""
    return [F.conv2d(x, w, None, 1, _padding(w, r), r, len(w)) for w, r in zip(weights, dilations, strict=True)]


class _ParallelConvs(torch.autograd.Function):
    """Depthwise convolutions of stride 1 that keep the map's size, without bias: an output of each."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dilations: Sequence[int], *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, *weights)
        ctx.dilations = dilations
        return tuple(_convolve(x, weight, r) for weight, r in zip(weights, dilations, strict=True))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        if torch.is_grad_enabled():
            d_x, *d_weights = differentiable(
                lambda x, *weights: _outputs(x, ctx.dilations, weights), (x, *weights), *grads
            )
            return d_x, None, *d_weights
        needs_x, _, *needs_weight = ctx.needs_input_grad
        branches = list(zip(weights, ctx.dilations, grads, needs_weight, strict=True))
        grad_x = None
        if needs_x:
            for weight, r, grad, _ in branches:
                part = _convolve(grad, weight.flip(2, 3), r)
                grad_x = part if grad_x is None else grad_x.add_(part)
        by_fft = [
            needed and weight.shape[-1] >= FFT_FROM and why_not(x, weight.shape[-1]) is not None
            for weight, _, _, needed in branches
        ]
        reach = max((_padding(b[0], b[1]) for b, fft in zip(branches, by_fft, strict=True) if fft), default=0)
        correlation = Correlation(x, reach) if reach else None
        grad_weights: list[Tensor | None] = []
        for (weight, r, grad, needed), fft in zip(branches, by_fft, strict=True):
            k = weight.shape[-1]
            if not needed:
                grad_weights.append(None)
            elif why_not(x, k) is None:
                grad_weights.append(native_weight_grad(x, grad, k, r))
            elif fft:
                assert correlation is not None
                grad_weights.append(correlation.weight_grad(grad, k, r))
            else:
                grad_weights.append(conv2d_weight(x, weight.shape, grad, 1, _padding(weight, r), r, weight.shape[0]))
        return grad_x, None, *grad_weights


def _by_winner(x: Tensor, conv: nn.Conv2d) -> Tensor:
    own = dispatch.convolve(x, conv.weight, conv.bias) if conv.dilation[0] == 1 else None
    if own is not None:
        return own[0]
    out: Tensor = conv(x)
    return out


def parallel_convs(x: Tensor, convs: Sequence[nn.Conv2d]) -> Sequence[Tensor]:
    """Each of `convs` on x (B, C, H, W): depthwise ones of stride 1, without bias, that keep the map's size."""
    if any(why_not_read(conv) for conv in convs):
        return [conv(x) for conv in convs]
    if x.device.type != "cpu" or under_autocast("cpu") or not eager_autograd():
        return [_by_winner(x, conv) for conv in convs]
    outputs: tuple[Tensor, ...] = _ParallelConvs.apply(
        x, [conv.dilation[0] for conv in convs], *(conv.weight for conv in convs)
    )
    return outputs
