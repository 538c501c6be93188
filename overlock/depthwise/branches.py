"""Parallel depthwise convolutions, each with its batch norm, and their sum, for training on a CPU by C kernels.

As separate operators every branch writes its output and its norm's, and keeps the first for the backward, which reads
both again and again: 14 maps where the sum is one. With a batch's statistics known, the sum is one convolution, with a
kernel that all branches are merged into. So the forward makes each branch's output in the cache, for its statistics
alone (`native/branches.h`); the backward makes it once more for its product with the gradient, and again for gradients.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overlock import native
from overlock.depthwise import native as convolution
from overlock.depthwise.parallel import NATIVE_SIZES
from overlock.tracing import differentiable, eager_autograd, under_autocast, why_not_read

MOST = 8  # branches: native/branches.h


class _Branches(ctypes.Structure):
    """`Branches` of branches.h."""

    _fields_ = (
        ("x", ctypes.c_void_p),
        ("taps", ctypes.c_void_p),
        *((name, ctypes.c_long) for name in ("batch", "height", "width", "channels", "branches")),
        ("k", ctypes.c_long * MOST),
        ("dilation", ctypes.c_long * MOST),
        ("bf16", ctypes.c_int),
        ("threads", ctypes.c_int),
    )


class Norms(NamedTuple):
    """What the norms of all branches are computed with."""

    eps: tuple[float, ...]
    dilations: tuple[int, ...]


def why_not(x: Tensor, convs: Sequence[nn.Conv2d], norms: Sequence[nn.Module]) -> str | None:
    """The reason why the kernels do not run `convs` on x (B, C, H, W), each with its norm, or None where they do."""
    if not eager_autograd() or under_autocast(x.device.type):
        return "no gradient is recorded, or under autocast"
    if any(why_not_read(layer) for layer in (*convs, *norms)):
        return "a layer is not as it was made"
    for norm in norms:
        if type(norm) is not nn.BatchNorm2d or not (norm.training and norm.affine and norm.track_running_stats):
            return "a norm is no batch norm in training"
        if norm.momentum is None:
            return "a norm's statistics are averages of all batches"
    largest = max(conv.kernel_size[0] for conv in convs)
    if len(convs) > MOST or any(conv.kernel_size[0] not in NATIVE_SIZES for conv in convs):
        return f"it takes up to {MOST} kernels of {NATIVE_SIZES}"
    if any(conv.dilation[0] * (conv.kernel_size[0] // 2) > largest // 2 for conv in convs):
        return "a branch reaches beyond the largest kernel"
    if x.numel() == x.shape[1]:
        return "one position has no variance"
    return convolution.why_not(x, largest)


def normed_sum(x: Tensor, convs: Sequence[nn.Conv2d], norms: Sequence[nn.BatchNorm2d]) -> Tensor:
    """sum of norm(conv(x)), where `why_not` has nothing against it; the norms' running statistics move."""
    settings = Norms(tuple(norm.eps for norm in norms), tuple(conv.dilation[0] for conv in convs))
    parameters = [p for layers in (convs, norms) for p in (layer.weight for layer in layers)]
    out, means, variances = _NormedSum.apply(x, settings, *parameters, *(norm.bias for norm in norms))
    with torch.no_grad():
        unbiased = variances * (x.numel() / (x.numel() - x.shape[1]))
        torch._foreach_add_([norm.get_buffer("num_batches_tracked") for norm in norms], 1)
        _move("running_mean", means, norms)
        _move("running_var", unbiased, norms)
    return out


def _move(name: str, new: Tensor, norms: Sequence[nn.BatchNorm2d]) -> None:
    """The norms' running statistics towards new ones (branches, C)."""
    running = [norm.get_buffer(name) for norm in norms]
    momenta = [norm.momentum or 0.0 for norm in norms]
    torch._foreach_mul_(running, [1 - momentum for momentum in momenta])
    torch._foreach_add_(running, (new * new.new_tensor(momenta)[:, None]).to(running[0].dtype).unbind())


def separately(x: Tensor, settings: Norms, *parameters: Tensor) -> Tensor:
    """The sum by PyTorch's operators.

    Args:
        parameters: weights (C, 1, k, k) of the convolutions, then weights (C) of the norms, then their biases.
    """
    count = len(settings.eps)
    weights, gammas, betas = parameters[:count], parameters[count : 2 * count], parameters[2 * count :]
    out: Tensor | None = None
    for weight, r, gamma, beta, eps in zip(weights, settings.dilations, gammas, betas, settings.eps, strict=True):
        y = F.conv2d(x, weight, None, 1, r * (weight.shape[-1] // 2), r, len(weight))
        y = F.batch_norm(y, None, None, gamma, beta, training=True, eps=eps)
        out = y if out is None else out + y
    assert out is not None
    return out


class _NormedSum(torch.autograd.Function):
    """`separately`, and the mean and the variance of each branch (branches, C)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, settings: Norms, *parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        count, (batch, channels) = len(settings.eps), x.shape[:2]
        weights, gammas, betas = parameters[:count], parameters[count : 2 * count], parameters[2 * count :]
        call = _Call(x, weights, settings)
        image_means, squares = _floats(x, 2, batch, count, channels)
        call.run("branch_statistics", image_means, squares)
        means = image_means.mean(0)
        variances = squares.sum(0) / (x.numel() // channels) + (image_means - means).square_().mean(0)
        deviations = (variances + means.new_tensor(settings.eps)[:, None]).sqrt_()
        scales = torch.stack(gammas).float() / deviations
        sizes = tuple(weight.shape[-1] for weight in weights)
        of_tap = scales.repeat_interleave(means.new_tensor([k * k for k in sizes], dtype=torch.long), 0)
        merged = means.new_zeros(max(sizes) ** 2, channels).index_add_(
            0, _places(sizes, settings.dilations), call.taps * of_tap
        )
        shift = (torch.stack(betas).float() - means * scales).sum(0)
        ctx.save_for_backward(x, means, deviations, *parameters)
        ctx.settings = settings
        ctx.mark_non_differentiable(means, variances)
        return convolution.convolve(x, merged, shift), means, variances

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, means, deviations, *parameters = ctx.saved_tensors
        settings: Norms = ctx.settings
        if torch.is_grad_enabled():
            d_x, *d_parameters = differentiable(lambda x, *p: separately(x, settings, *p), (x, *parameters), grad)
            return d_x, None, *d_parameters
        count, (batch, channels) = len(settings.eps), x.shape[:2]
        weights, gammas = parameters[:count], torch.stack(parameters[count : 2 * count]).float()
        grad = grad.contiguous(memory_format=torch.channels_last)
        call = _Call(x, weights, settings)
        sums, products = _floats(x, batch, channels), _floats(x, batch, count, channels)
        call.run("branch_products", grad, means, sums, products)
        d_beta, d_gamma = sums.sum(0), products.sum(0) / deviations
        # of a branch's output y: factor * grad + along * y + shift
        positions = x.numel() // channels
        factor = gammas / deviations
        along = -factor * d_gamma / deviations / positions
        shift = -along * means - factor * d_beta / positions
        parts = min(batch, -(-4 * call.threads * convolution.CHANNELS // channels))
        d_x = torch.empty_like(x, memory_format=torch.channels_last)
        d_taps = _floats(x, parts, len(call.taps), channels)
        call.run("branch_gradients", grad, torch.stack((factor, along, shift)), parts, d_x, d_taps)
        sizes = [weight.shape[-1] ** 2 for weight in weights]
        d_weights = [
            d.t().reshape(weight.shape).to(weight.dtype)
            for d, weight in zip(d_taps.sum(0).split(sizes), weights, strict=True)
        ]
        d_gammas = [d.to(gamma.dtype) for d, gamma in zip(d_gamma, parameters[count:], strict=False)]
        d_betas = [d_beta.to(beta.dtype) for beta in parameters[2 * count :]]
        return d_x, None, *d_weights, *d_gammas, *d_betas


@lru_cache(maxsize=64)
def _places(sizes: tuple[int, ...], dilations: tuple[int, ...]) -> Tensor:
    """Of each tap of each branch, its place in a kernel (K*K) of the largest branch's size, into which all merge."""
    largest = max(sizes)
    places = []
    for k, r in zip(sizes, dilations, strict=True):
        along = largest // 2 + r * (torch.arange(k, device="cpu") - k // 2)
        places.append((along[:, None] * largest + along).flatten())
    return torch.cat(places)


def _floats(x: Tensor, *shape: int) -> Tensor:
    return x.new_empty(shape, dtype=torch.float32)


class _Call:
    """The kernels' view of a map and the branches' weights."""

    def __init__(self, x: Tensor, weights: Sequence[Tensor], settings: Norms) -> None:
        self.x, self.threads = x, torch.get_num_threads()
        self.taps = torch.cat([weight.float().flatten(1).t() for weight in weights])
        batch, channels, height, width = x.shape
        array = ctypes.c_long * MOST
        self.struct = _Branches(
            native.pointer(x),
            native.pointer(self.taps),
            batch,
            height,
            width,
            channels,
            len(weights),
            array(*(weight.shape[-1] for weight in weights)),
            array(*settings.dilations),
            x.dtype == torch.bfloat16,
            self.threads,
        )

    def run(self, name: str, *arguments: Tensor | int) -> None:
        given = [ctypes.c_long(a) if isinstance(a, int) else native.pointer(a) for a in arguments]
        native.call(name, ctypes.byref(self.struct), *given)
