"""What every launcher of Triton kernels needs. Importing this imports no Triton. The kernels are experimental."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Hashable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

_prepared = WeakTensorKeyDictionary()
"""Weight -> {what: (its state then, what was made of it)}, for as long as the weight lives."""

_captured = WeakTensorKeyDictionary()
"""Weight -> what CUDA graphs read of what was made of it, for as long as the weight lives."""


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


def prepared(weight: Tensor, what: Hashable, make: Callable[[], Tensor]) -> Tensor:
    """What `make` makes of a weight for the kernels, kept until the weight changes: a deployed model's is made once.

    Made at every call of a weight that is trained, and of one made in inference mode, which keeps no count of its
    changes. An edit through `.data` passes the count by: call `torch.autograd.graph.increment_version` after one.

    A CUDA graph reads what was made before its capture, and that is kept for as long as the weight lives, since a
    replay reads it again: after a change of the weight, capture another graph. What is first made during a capture
    belongs to the graph, and is made again at each replay.
    """
    if weight.requires_grad or weight.is_inference():
        return make()
    capturing = weight.is_cuda and torch.cuda.is_current_stream_capturing()
    state = weight.data_ptr(), weight._version, weight.dtype
    own = _prepared.setdefault(weight, {})
    if what not in own or own[what][0] != state:
        if capturing:
            return make()
        own[what] = state, make()
    made: Tensor = own[what][1]
    if capturing:
        _captured.setdefault(weight, []).append(made)
    return made


def next_power_of_2(n: int, least: int = 1) -> int:
    """The least power of two that is neither below n nor below `least`, itself one. (Triton's would import Triton.)"""
    return max(least, 1 << (n - 1).bit_length())


def depth(x: Tensor, channels: int, most: int) -> int:
    """How many of its channels a step of a product takes: `most` at two bytes each, a quarter of them in float32.

    Without TF32 the operands of a float32 product lie in registers: 64 channels at a time spill 5,440 bytes a thread.
    """
    return min(most if x.element_size() == 2 else most // 4, next_power_of_2(channels, 16))


def precision(x: Tensor, tf32: bool) -> str:
    """How `triton_product.product` rounds: `widen` is for the interpreter, which cannot multiply bfloat16."""
    if x.is_cuda:
        return "tf32" if tf32 else "ieee"
    return "widen" if x.dtype == torch.bfloat16 else "ieee"
