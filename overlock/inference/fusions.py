"""Which of the experimental Triton kernels of folded blocks run: one switch for them all.

Nothing takes them by itself. OVERLOCK_FUSIONS, or `use`, has the folded blocks run them where they can: `none`, `all`,
or names of `FUSIONS` with commas between them. Large depthwise convolutions have a switch of their own, since a
measurement decides by shape: `overlock.depthwise.dispatch`.
"""

from __future__ import annotations

import functools
import importlib
import os
from typing import Any

import torch
from torch import Tensor

from overlock.tracing import followed, under_autocast
from overlock.triton_tools import installed, interpreted

VARIABLE = "OVERLOCK_FUSIONS"
NONE, ALL = "none", "all"
FUSIONS = ("mlp", "norm", "gate")
"""`mlp`: the MLP in two passes over its hidden map. `norm`: a 3x3 convolution with its residual and the LayerNorm after
it. `gate`: squeeze-and-excitation, the gate and its SiLU in one pass, and products added in place."""
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_chosen: frozenset[str] = frozenset()


def use(what: str) -> None:
    """Have folded blocks run these fusions wherever they can: `none`, `all`, or names with commas between them.

    Raises:
        ValueError: for another name, or if there is no Triton.
    """
    global _chosen
    names = {NONE: (), ALL: FUSIONS}.get(what, tuple(what.split(",")))
    if not set(names) <= set(FUSIONS):
        raise ValueError(f"{VARIABLE}={what}: give {NONE}, {ALL}, or some of {','.join(FUSIONS)}")
    if names and not installed():
        raise ValueError(f"{VARIABLE}={what}: Triton is not installed")
    _chosen = frozenset(names)


def asked() -> bool:
    """Whether any fusion is asked for."""
    return bool(_chosen)


@functools.lru_cache(maxsize=1)
def _interpreting() -> bool:
    return interpreted(importlib.import_module("overlock.inference.block_kernels").norm_kernel)


def why_not(fusion: str, *maps: Tensor) -> str | None:
    """The reason why a fusion does not run on these maps (B, C, H, W), or None where it does."""
    if fusion not in _chosen:
        return f"{VARIABLE} is {','.join(sorted(_chosen)) or NONE}"
    reason = followed()
    if reason is not None:
        return reason
    x = maps[0]
    if under_autocast(x.device.type):
        return "under autocast"
    if torch.is_grad_enabled() and any(t.requires_grad for t in maps):
        return "a gradient is asked for"
    if x.dtype not in DTYPES:
        return f"the kernels take float32, bfloat16 and float16, not {str(x.dtype).removeprefix('torch.')}"
    if not all(t.is_contiguous(memory_format=torch.channels_last) for t in maps):
        return "a map is not channels_last"
    if x.is_cuda or (x.device.type == "cpu" and _interpreting()):
        return None
    return f"it needs a CUDA device, and the map is on {x.device.type}"


def kernel(module: str, name: str) -> Any:
    """A kernel of `overlock.inference.<module>`, imported when it is needed: Triton may not be installed."""
    return getattr(importlib.import_module(f"overlock.inference.{module}"), name)


use(os.environ.get(VARIABLE, NONE))
