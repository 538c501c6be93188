"""Large depthwise convolutions on a GPU: PyTorch's, or Triton's where a measurement says that they win.

The latter are experimental. `use` says where they run, and so does OVERLOCK_DEPTHWISE when this is imported: `torch`
(nowhere), `triton` (wherever they can), `padded` (likewise, the kernels of `triton` alone), or a file of measured
winners, which `python -m bench.gpu_run` writes. None has been measured yet: without the variable PyTorch's convolution
runs.

Of Triton's two, `last` reads channels_last maps as they are and has no gradient; `triton` copies maps of any layout
into padded rows. `triton` as a choice is `last` where that can run, and else the other.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from overlock.depthwise import last
from overlock.depthwise import triton as depthwise_triton
from overlock.depthwise.triton import DTYPES, KERNEL_SIZES
from overlock.tracing import is_exporting, under_autocast
from overlock.triton_tools import installed

log = logging.getLogger(__name__)

VARIABLE = "OVERLOCK_DEPTHWISE"
TORCH, TRITON, PADDED = "torch", "triton", "padded"


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


winners: dict[Case, str] = {}
"""Where Triton beats PyTorch's convolution, and which of its two."""

everywhere = TORCH
"""What is taken in every case that it can run, measured or not."""

interpreting = False
"""Whether they may be taken on a CPU, by Triton's interpreter. Noted by `use`: `chosen` is traced by torch.compile."""


def use(what: str) -> None:
    """Have large depthwise convolutions run by PyTorch (`torch`), by Triton wherever it can (`triton`, `padded`), or by
    what a file of `bench.gpu_run` says that wins: a list of {"case": [...], "winner": one of the three}.

    Raises:
        ValueError: if it is neither, the file cannot be read, or there is no Triton.
    """
    global everywhere, interpreting
    measured: dict[Case, str] = {}
    if what not in (TORCH, TRITON, PADDED):
        try:
            rows: Iterable[dict[str, Any]] = json.loads(Path(what).read_text(encoding="utf-8"))
            measured = {Case(*row["case"]): row["winner"] for row in rows if row["winner"] in (TRITON, PADDED)}
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(
                f"{what}: neither {TORCH}, {TRITON}, {PADDED} nor a file of winners of bench.gpu_run ({error})"
            ) from error
    if what != TORCH and not installed():
        raise ValueError(f"{what}: Triton is not installed")
    winners.clear()
    winners.update(measured)
    everywhere = what if what in (TRITON, PADDED) else TORCH
    interpreting = what != TORCH and depthwise_triton.interpreting()
    if everywhere != TORCH or winners:
        log.info("large depthwise convolutions by Triton: %s", f"{len(winners)} cases" if winners else f"all, {what}")


def chosen(x: Tensor, weight: Tensor) -> str:
    """What x (B, C, H, W) is to be convolved with weight (C, 1, K, K) by: `torch`; `triton`, which is `last.
    depthwise_last`; or `padded`, which is `triton.depthwise`."""
    if (everywhere == TORCH and not winners) or is_exporting() or under_autocast(x.device.type):
        return TORCH
    if not (x.is_cuda or interpreting) or x.dtype not in DTYPES or weight.shape[-1] not in KERNEL_SIZES:
        return TORCH
    gradients = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    what = winners.get(Case.of(x, weight.shape[-1], gradients), TORCH) if winners else everywhere
    return PADDED if what == TRITON and (gradients or not last.suits(x, weight.shape[-1])) else what


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None = None
) -> tuple[Tensor, str | None] | None:
    """What is chosen, where that is Triton's: the convolution, and what is left to do of the activation."""
    what = chosen(x, weight)
    if what == TRITON:
        return last.depthwise_last(x, weight, bias, activation), None
    return None if what == TORCH else (depthwise_triton.depthwise(x, weight, bias), activation)


use(os.environ.get(VARIABLE, TORCH))
