"""Large depthwise convolutions on a GPU: PyTorch's, or `depthwise_kernels` where a measurement says that it wins.

`overlock::depthwise` is the operator of the latter, with its gradients. `use` says where it runs, and so does
OVERLOCK_DEPTHWISE when this is imported: `torch` (nowhere), `triton` (wherever it can), or a file of measured winners,
which `python -m bench.gpu_run` writes. None has been measured yet: without the variable PyTorch's convolution runs.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import json
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .plain import is_plain, under_autocast

log = logging.getLogger(__name__)

VARIABLE = "OVERLOCK_DEPTHWISE"
TORCH, TRITON = "torch", "triton"

KERNEL_SIZES = (5, 7, 9, 11, 13, 15, 17)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ROWS = 128  # of a program
WEIGHT_ROWS = 64
PROGRAMS = 2048  # of the weight's gradient, at least, if the rows suffice


class Case(NamedTuple):
    """One measured case: the map without its batch, the kernel, dtype and layout as `torch` names them, and whether
    gradients are wanted too."""

    kernel_size: int
    channels: int
    height: int
    width: int
    dtype: str
    layout: str  # channels_last or channels_first
    gradients: bool

    @classmethod
    def of(cls, x: Tensor, kernel_size: int, gradients: bool) -> Case:
        last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        layout = "channels_last" if last else "channels_first"
        return cls(
            kernel_size, x.shape[1], x.shape[2], x.shape[3], str(x.dtype).removeprefix("torch."), layout, gradients
        )


winners: set[Case] = set()
"""Where `overlock::depthwise` beats PyTorch's convolution."""

everywhere = False
"""Whether it is taken in every case that it can run, measured or not."""

interpreting = False
"""Whether it may be taken on a CPU, by Triton's interpreter. Noted by `use`: `wins` is traced by torch.compile."""


def use(what: str) -> None:
    """Have large depthwise convolutions run by PyTorch (`torch`), by these kernels wherever they can (`triton`), or by
    these where a file of `bench.gpu_run` says that they win: a list of {"case": [...], "winner": "triton" or "torch"}.

    Raises:
        ValueError: if it is neither, the file cannot be read, or there is no Triton.
    """
    global everywhere, interpreting
    found: set[Case] = set()
    if what not in (TORCH, TRITON):
        try:
            rows: Iterable[dict[str, Any]] = json.loads(Path(what).read_text(encoding="utf-8"))
            found = {Case(*row["case"]) for row in rows if row["winner"] == TRITON}
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{what}: neither {TORCH}, {TRITON} nor a file of winners as bench.gpu_run writes it ({error})"
            ) from error
    if what != TORCH and importlib.util.find_spec("triton") is None:
        raise ValueError(f"{what}: Triton is not installed")
    winners.clear()
    winners.update(found)
    everywhere = what == TRITON
    interpreting = what != TORCH and _interpreted()
    if everywhere or winners:
        log.info("large depthwise convolutions by Triton: %s", "all" if everywhere else f"{len(winners)} cases")


def wins(x: Tensor, weight: Tensor) -> bool:
    """Whether x (B, C, H, W) is to be convolved with weight (C, 1, K, K) by this module."""
    if not (everywhere or winners) or is_plain() or under_autocast(x.device.type):
        return False
    if not (x.is_cuda or interpreting) or _not_taken(x, weight) is not None:
        return False
    gradients = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    return everywhere or Case.of(x, weight.shape[-1], gradients) in winners


@functools.lru_cache(maxsize=1)
def _kernels() -> Any:
    return importlib.import_module("overlock.depthwise_kernels")


def _interpreted() -> bool:
    from triton.runtime.jit import JITFunction

    return not isinstance(_kernels().depthwise_kernel, JITFunction)


def why_not(x: Tensor, weight: Tensor) -> str | None:
    """Why these cannot be convolved here; None: they can. Not to be traced: the operator asks it, not its callers."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    reason = _not_taken(x, weight)
    if reason is not None:
        return reason
    if not x.is_cuda and not (x.device.type == "cpu" and _interpreted()):
        return f"it needs a CUDA device, and the map is on {x.device.type}"
    return None


def _not_taken(x: Tensor, weight: Tensor) -> str | None:
    """Why the kernels are not for this dtype or kernel size; None: they are."""
    if x.dtype not in DTYPES:
        return f"the kernels take float32, bfloat16 and float16, not {str(x.dtype).removeprefix('torch.')}"
    if weight.shape[-1] not in KERNEL_SIZES:
        return f"the kernels have sizes {', '.join(map(str, KERNEL_SIZES))}, not {weight.shape[-1]}"
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


def _on(x: Tensor) -> Any:
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


def _constants(x: Tensor, k: int) -> dict[str, Any]:
    precision = "ieee"
    if x.is_cuda and torch.backends.cudnn.allow_tf32:
        precision = "tf32"  # as PyTorch's convolutions
    if not x.is_cuda and x.dtype == torch.bfloat16:
        precision = "widen"
    return {"K": k, "S": 1 << (k + 14).bit_length(), "PRECISION": precision}


def _layout(x: Tensor) -> torch.memory_format:
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, flip: bool) -> Tensor:
    """Rows are read along W: channels_last maps are transposed before and after."""
    batch, channels, height, width = x.shape
    k = weight.shape[-1]
    wide, weight = x.contiguous(), weight.contiguous()
    out = torch.empty_like(wide)
    rows = min(ROWS, max(16, 1 << (batch * height - 1).bit_length()))
    grid = channels * -(-width // 16) * -(-batch * height // rows)
    with _on(x):
        _kernels().depthwise_kernel[(grid,)](
            wide, *wide.stride(), weight, weight if bias is None else bias, out, *out.stride(), channels,
            batch * height, height, width, **_constants(x, k), M=rows, FLIP=flip, BIAS=bias is not None, num_warps=4,
        )  # fmt: skip
    return out.contiguous(memory_format=_layout(x))


@torch.library.custom_op("overlock::depthwise", mutates_args=())
def depthwise_op(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    reason = why_not(x, weight)
    if reason is not None:
        raise ValueError(f"no depthwise convolution by Triton: {reason}")
    return _convolve(x, weight, bias, flip=False)


@torch.library.custom_op("overlock::depthwise_backward", mutates_args=())
def depthwise_backward_op(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    batch, channels, height, width = x.shape
    k, rows = weight.shape[-1], batch * height
    d_x = _convolve(grad.contiguous(memory_format=_layout(x)), weight, None, flip=True)
    wide, grad = x.contiguous(), grad.contiguous()
    parts = max(1, min(-(-rows // WEIGHT_ROWS), -(-PROGRAMS // (channels * k))))
    share = -(-rows // (parts * WEIGHT_ROWS)) * WEIGHT_ROWS
    parts = -(-rows // share)
    part = torch.empty(parts, channels, k, k, dtype=torch.float32, device=x.device)
    with _on(x):
        _kernels().depthwise_weight_kernel[(parts * channels * k,)](
            wide, *wide.stride(), grad, *grad.stride(), part, channels, rows, height, width, share,
            **_constants(x, k), KP=1 << (k - 1).bit_length(), M=WEIGHT_ROWS, num_warps=4,
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


use(os.environ.get(VARIABLE, TORCH))
