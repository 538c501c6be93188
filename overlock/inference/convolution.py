"""Convolution with what follows it: activation, or addition to a map in place.

On a CPU these run as one kernel of oneDNN, the library behind PyTorch's own convolutions, through the operators that
TorchInductor calls for the same purpose: a separate GELU over the widest map costs five times the convolution before
it. Elsewhere they run as PyTorch's separate operators. `why_not` says which.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from overlock.depthwise import dispatch
from overlock.depthwise import native as depthwise_native
from overlock.depthwise.parallel import fast_size
from overlock.inference.prepacked import packed_taps, prepacked
from overlock.tracing import followed

_FUSED_NAME = {"gelu": "gelu", "silu": "swish", None: "none"}
_FUSED_DTYPES = (torch.float32, torch.bfloat16)


@lru_cache(maxsize=1)
def _library_has_fused() -> bool:
    names = (
        "_convolution_pointwise",
        "_convolution_pointwise_",
        "_reorder_convolution_weight",
        "_get_mkldnn_serialized_md",
    )
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in names)


@lru_cache(maxsize=1)
def _has_bf16() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def why_not(x: Tensor) -> str | None:
    """The reason why a convolution of `x` runs as separate operators, or None where it runs as one kernel."""
    reason = followed()
    if reason is not None:
        return reason
    if x.device.type != "cpu":
        return f"on {x.device.type}"
    if x.dtype not in _FUSED_DTYPES:
        return f"in {x.dtype}"
    if not _library_has_fused():
        return "this PyTorch build has no oneDNN"
    if x.dtype == torch.bfloat16 and not _has_bf16():
        return "this CPU has no bfloat16 kernels"
    if not torch.backends.mkldnn.enabled:
        return "oneDNN is switched off"
    if torch.is_autocast_enabled("cpu"):
        return "under autocast"
    if torch.is_grad_enabled() and x.requires_grad:
        return "a gradient is asked for"
    return None


def conv(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None = None, stride: int = 1) -> Tensor:
    """The activation of a convolution of x (B, C, H, W), of the same size (or divided by `stride`).

    It is depthwise where the weight is.

    Args:
        weight: (O, C, k, k), or (C, 1, k, k) for a depthwise one.
        bias: (O,)
        activation: `gelu` (exact), `silu` or None.
    """
    groups, kernel_size = x.shape[1] // weight.shape[1], weight.shape[-1]
    if why_not(x) is None:
        alone = groups == x.shape[1] == weight.shape[0] and stride == 1 and activation is None
        if alone and depthwise_native.preferred(x, kernel_size):
            return depthwise_native.convolve(x, packed_taps(weight), bias)
        size = fast_size(x, kernel_size) if groups > 1 else kernel_size
        out: Tensor = torch.ops.mkldnn._convolution_pointwise.default(
            x,
            prepacked(weight, x, size, stride, groups),
            bias,
            [size // 2] * 2,
            [stride] * 2,
            [1, 1],
            groups,
            _FUSED_NAME[activation],
            [],
            "none",
        )
        return out
    own = dispatch.convolve(x, weight, bias, activation) if groups > 1 and stride == 1 else None
    if own is not None:
        y, activation = own
    else:
        padding = [kernel_size // 2] * 2  # a lone one is a tensor to a tracer
        y = F.conv2d(x, weight, bias, stride, padding, 1, groups)
    if activation == "gelu":
        return F.gelu(y)
    return F.silu(y, inplace=True) if activation == "silu" else y


def conv_add_(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """out += 1x1 convolution of x, in place: (B, O, H, W), (B, C, H, W), (O, C, 1, 1)."""
    if why_not(x) is None:
        torch.ops.mkldnn._convolution_pointwise_.binary(
            out, x, prepacked(weight, x, 1, 1, 1), bias, [0, 0], [1, 1], [1, 1], 1, "add", 1.0, None, [], None
        )
        return out
    return out.add_(F.conv2d(x, weight, bias))


def conv_of_vector(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """1x1 convolution of a map of one position (B, C, 1, 1): a matrix product, with less to set up."""
    return F.linear(x.flatten(1), weight.flatten(1), bias)[:, :, None, None]
