"""What every launcher of Triton kernels needs. Importing this imports no Triton. The kernels are experimental."""

from __future__ import annotations

import contextlib
import importlib.util
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


@lru_cache(maxsize=1)
def installed() -> bool:
    """Whether Triton is installed."""
    return importlib.util.find_spec("triton") is not None


def interpreted(kernel: Any) -> bool:
    """Whether a kernel runs in Triton's interpreter: TRITON_INTERPRET=1 was set when its module was imported."""
    from triton.runtime.jit import JITFunction

    return not isinstance(kernel, JITFunction)


def on(x: Tensor) -> Any:
    """A context in which kernels are launched on x's device."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


def next_power_of_2(n: int, least: int = 1) -> int:
    """The least power of two that is neither below n nor below `least`, itself one. (Triton's would import Triton.)"""
    return max(least, 1 << (n - 1).bit_length())


def precision(x: Tensor, tf32: bool) -> str:
    """How `triton_product.product` rounds: `widen` is for the interpreter, which cannot multiply bfloat16."""
    if x.is_cuda:
        return "tf32" if tf32 else "ieee"
    return "widen" if x.dtype == torch.bfloat16 else "ieee"
