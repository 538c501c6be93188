"""Depthwise convolution of stride 1 by `triton_kernels`: the operator `overlock::depthwise`, with its gradients.

Experimental: the kernels have run in Triton's interpreter and been compiled for Hopper, but never run on a GPU.

Maps are copied into rows padded with zeros, which the kernels read, and back; the same copies transpose channels_last
maps. An infinite value makes NaN not only of the outputs that it reaches but of all that share a product with it.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from overlock.triton_tools import installed, interpreted, next_power_of_2, on, precision, prepared

KERNEL_SIZES = (5, 7, 9, 11, 13, 15, 17)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
GROUPS = 64  # of rows, a program
GROUP_ROWS = 8
CHANNELS = 64  # at a time, where maps are padded or transposed
WEIGHT_TAPS = 8  # rows of the kernel, a program of the weight's gradient
PROGRAMS = 2048  # of the weight's gradient, at least, if the rows suffice


@functools.lru_cache(maxsize=1)
def _kernels() -> Any:
    return importlib.import_module("overlock.depthwise.triton_kernels")


def interpreting() -> bool:
    """Whether the kernels run in Triton's interpreter."""
    return interpreted(_kernels().depthwise_kernel)


def why_not(x: Tensor, weight: Tensor) -> str | None:
    """The reason why x (B, C, H, W) and weight (C, 1, K, K) cannot be convolved here, or None where they can.

    The operator asks it, not its callers: it is not to be traced.
    """
    if not installed():
        return "Triton is not installed"
    if x.dtype not in DTYPES:
        return f"the kernels take float32, bfloat16 and float16, not {str(x.dtype).removeprefix('torch.')}"
    if weight.shape[-1] not in KERNEL_SIZES:
        return f"the kernels have sizes {', '.join(map(str, KERNEL_SIZES))}, not {weight.shape[-1]}"
    if not x.is_cuda and not (x.device.type == "cpu" and interpreting()):
        return f"it needs a CUDA device, and the map is on {x.device.type}"
    return None


def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Depthwise convolution of stride 1 that keeps the map's size, by Triton's kernels; differentiable.

    Args:
        x: (B, C, H, W)
        weight: (C, 1, K, K)
        bias: (C,)

    Returns:
        (B, C, H, W), laid out as x.

    Raises:
        ValueError: where the kernels cannot run, with the reason.
    """
    out: Tensor = torch.ops.overlock.depthwise(x, weight, bias)
    return out


class Tile(NamedTuple):
    """How rows are cut and padded."""

    columns: int  # of outputs
    margin: int  # zeros before a row
    read: int  # columns of the input for those of outputs

    @classmethod
    def of(cls, width: int, k: int) -> Tile:
        """Eight columns where that is all and the kernel is small enough, else sixteen."""
        return cls(8, 4, 16) if width <= 8 and k <= 9 else cls(16, 8, 32)

    def across(self, width: int) -> int:
        """How many there are in a row."""
        return -(-width // self.columns)

    def padded(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, margin + W + zeros): all that any tile reads, pitch a multiple of 16."""
        pitch = -(-((self.across(x.shape[-1]) - 1) * self.columns + self.read) // 16) * 16
        return _placed(x, x.new_empty(*x.shape[:-1], pitch), self.margin)

    def bands(self, weight: Tensor, rows: int, flip: bool) -> Tensor:
        """(C, 1, K, K) -> (C, K + 2 rows - 2, read, columns): w[u - rows + 1, y - n - margin + K//2] at u, y, n."""
        k = weight.shape[-1]
        before = self.columns - 1 + self.margin - k // 2
        taps = weight[:, 0].flip(1, 2) if flip else weight[:, 0]
        wide = F.pad(taps, (before, self.read + self.columns - 1 - before - k, rows - 1, rows - 1))
        return wide.unfold(-1, self.columns, 1).flip(-1).contiguous()


def _precision(x: Tensor) -> str:
    return precision(x, torch.backends.cudnn.allow_tf32)  # as PyTorch's convolutions


def _layout(x: Tensor) -> torch.memory_format:
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def _placed(x: Tensor, out: Tensor, margin: int) -> Tensor:
    """`out` (B, C, H, P) filled with x (B, C, H, W) from column `margin` on, cut off at P, and zeros beside it."""
    batch, channels, height, pitch = out.shape
    columns = min(64, max(16, next_power_of_2(pitch)))
    grid = -(-pitch // columns) * -(-channels // CHANNELS) * batch * height
    with on(x):
        _kernels().place_kernel[(grid,)](
            x, *x.stride(), out, *out.stride(), channels, height, x.shape[-1], pitch, MARGIN=margin,
            CHANNELS=CHANNELS, COLUMNS=columns, num_warps=4,
        )  # fmt: skip
    return out


def _rows(height: int) -> int:
    """Rows of a group."""
    return max(2, min(GROUP_ROWS, next_power_of_2(height)))


def _convolve(
    wide: Tensor, tile: Tile, width: int, weight: Tensor, bias: Tensor | None, flip: bool, layout: torch.memory_format
) -> Tensor:
    """The convolution of a padded map; with `flip` the gradient of the input."""
    batch, channels, height, _ = wide.shape
    k, across = weight.shape[-1], tile.across(width)
    rows = _rows(height)
    groups = batch * -(-height // rows)
    m = max(16, min(GROUPS, next_power_of_2(groups)))
    out = wide.new_empty(batch, channels, height, -(-across * tile.columns // 16) * 16)
    bands = prepared(weight, ("bands", tile, rows, flip), lambda: tile.bands(weight, rows, flip))
    with on(wide):
        _kernels().depthwise_kernel[(channels * across * -(-groups // m),)](
            wide, *wide.stride()[:3], bands, bands if bias is None else bias, out, *out.stride()[:3], channels,
            groups, height, across, K=k, S=tile.read, M=m, R=rows, N=tile.columns, BIAS=bias is not None,
            PRECISION=_precision(wide), num_warps=4, num_stages=1,
        )  # fmt: skip
    if layout == torch.contiguous_format and out.shape[-1] == width:
        return out
    return _placed(out, torch.empty_like(out[..., :width], memory_format=layout), 0)


@torch.library.custom_op("overlock::depthwise", mutates_args=())
def depthwise_op(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    reason = why_not(x, weight)
    if reason is not None:
        raise ValueError(f"no depthwise convolution by Triton: {reason}")
    tile = Tile.of(x.shape[-1], weight.shape[-1])
    return _convolve(tile.padded(x), tile, x.shape[-1], weight, bias, False, _layout(x))


@torch.library.custom_op("overlock::depthwise_backward", mutates_args=())
def depthwise_backward_op(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    batch, channels, height, width = x.shape
    k, rows = weight.shape[-1], _rows(height)
    tile = Tile.of(width, k)
    wide, wide_grad, across = tile.padded(x), tile.padded(grad), tile.across(width)
    d_x = _convolve(wide_grad, tile, width, weight, None, True, _layout(x))
    blocks = channels * across * -(-k // WEIGHT_TAPS)
    groups = batch * -(-height // rows)
    parts = max(1, min(-(-groups // GROUPS), -(-PROGRAMS // blocks)))
    share = max(1, -(-groups // (parts * GROUPS))) * GROUPS
    parts = -(-groups // share)
    part = torch.empty(parts * across, channels, k, k, dtype=torch.float32, device=x.device)
    with on(x):
        _kernels().depthwise_weight_kernel[(blocks * parts,)](
            wide, wide_grad, *wide.stride()[:3], part, channels, groups, height, across, share,
            K=k, KP=next_power_of_2(k), S=tile.read, M=GROUPS, R=rows, U=WEIGHT_TAPS, N=tile.columns,
            MARGIN=tile.margin, PRECISION=_precision(wide), num_warps=4, num_stages=1,
        )  # fmt: skip
    return d_x, part.sum(0).to(weight.dtype).unsqueeze(1)


@depthwise_op.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.empty_like(x, memory_format=_layout(x))


@depthwise_backward_op.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x, memory_format=_layout(x)), torch.empty_like(
        weight, memory_format=torch.contiguous_format
    )


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
    x, weight, bias = inputs
    ctx.save_for_backward(x, weight)
    ctx.has_bias = bias is not None


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    d_x, d_weight = depthwise_backward_op(grad, *ctx.saved_tensors)
    return d_x, d_weight, grad.sum((0, 2, 3)) if ctx.has_bias else None


depthwise_op.register_autograd(_backward, setup_context=_save)


@register_flop_formula(torch.ops.overlock.depthwise, get_raw=False)
def _flops(x: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * x[0] * x[1] * x[2] * x[3] * weight[-1] ** 2


@register_flop_formula(torch.ops.overlock.depthwise_backward, get_raw=False)
def _backward_flops(grad: Sequence[int], x: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
    return 4 * x[0] * x[1] * x[2] * x[3] * weight[-1] ** 2
