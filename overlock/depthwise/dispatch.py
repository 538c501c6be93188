"""Large depthwise convolutions on a GPU: PyTorch's, or those of `triton` where a measurement says that they win.

The latter are experimental. `use` says where they run, and so does OVERLOCK_DEPTHWISE when this is imported: `torch`
(nowhere), `triton` (wherever they can), or a file of measured winners, which `python -m bench.gpu_run` writes. None has
been measured yet: without the variable PyTorch's convolution runs.
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

from overlock.depthwise import triton as depthwise_triton
from overlock.depthwise.triton import DTYPES, KERNEL_SIZES
from overlock.tracing import is_exporting, under_autocast
from overlock.triton_tools import installed

log = logging.getLogger(__name__)

VARIABLE = "OVERLOCK_DEPTHWISE"
TORCH, TRITON = "torch", "triton"


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
    chosen: set[Case] = set()
    if what not in (TORCH, TRITON):
        try:
            rows: Iterable[dict[str, Any]] = json.loads(Path(what).read_text(encoding="utf-8"))
            chosen = {Case(*row["case"]) for row in rows if row["winner"] == TRITON}
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(
                f"{what}: neither {TORCH}, {TRITON} nor a file of winners as bench.gpu_run writes it ({error})"
            ) from error
    if what != TORCH and not installed():
        raise ValueError(f"{what}: Triton is not installed")
    winners.clear()
    winners.update(chosen)
    everywhere = what == TRITON
    interpreting = what != TORCH and depthwise_triton.interpreting()
    if everywhere or winners:
        log.info("large depthwise convolutions by Triton: %s", "all" if everywhere else f"{len(winners)} cases")


def wins(x: Tensor, weight: Tensor) -> bool:
    """Whether x (B, C, H, W) is to be convolved with weight (C, 1, K, K) by `triton.depthwise`."""
    if not (everywhere or winners) or is_exporting() or under_autocast(x.device.type):
        return False
    if not (x.is_cuda or interpreting) or x.dtype not in DTYPES or weight.shape[-1] not in KERNEL_SIZES:
        return False
    gradients = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    return everywhere or Case.of(x, weight.shape[-1], gradients) in winners


use(os.environ.get(VARIABLE, TORCH))
