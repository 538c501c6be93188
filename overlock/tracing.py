"""What decides how an operator runs: the switch to PyTorch's public operators alone, for exporters, and autocast."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

_plain = False


@contextlib.contextmanager
def plain_operators() -> Iterator[None]:
    """Within it, neither custom operators nor the CPU library's fused convolutions are called."""
    global _plain
    before, _plain = _plain, True
    try:
        yield
    finally:
        _plain = before


def is_plain() -> bool:
    return _plain


def is_watched() -> bool:
    """Whether a tracer, a counter or a fake tensor follows each operator: kernels unknown to it would get lost."""
    return torch.jit.is_tracing() or torch._C._len_torch_dispatch_stack() > 0


def under_autocast(device_type: str) -> bool:
    """Whether autocast is on for this kind of device (the meta device has none, and cannot be asked)."""
    return device_type != "meta" and torch.is_autocast_enabled(device_type)


def own_backward() -> bool:
    """Whether to bring our own backward: gradients are recorded, by eager autograd and not by a tracer or compiler."""
    return torch.is_grad_enabled() and not (_plain or torch.compiler.is_compiling() or torch.jit.is_tracing())
