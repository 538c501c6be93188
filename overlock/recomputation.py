"""Gradient checkpointing of a block: its inputs are kept alone, and the rest is computed again for the backward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from overlock.tracing import is_captured


def recomputed(block: nn.Module, *inputs: Tensor) -> Any:
    """`block(*inputs)`, whose backward runs it once more from the buffers that it started from."""
    if is_captured():
        return checkpoint(block, *inputs, use_reentrant=False)
    return checkpoint(block, *inputs, use_reentrant=False, context_fn=lambda: _contexts(block))


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """The contexts of a block's forward and of its repetition, which starts from the buffers that the forward started
    from and leaves none changed: batch norms would move their statistics twice a step."""
    before = {module: {k: _copy(b) for k, b in module._buffers.items()} for module in block.modules()}

    @contextmanager
    def again() -> Iterator[None]:
        after = {module: module._buffers for module in before}
        for module, buffers in before.items():
            module._buffers = {k: _copy(b) for k, b in buffers.items()}
        try:
            yield
        finally:
            for module, buffers in after.items():
                module._buffers = buffers

    return nullcontext(), again()


def _copy(buffer: Tensor | None) -> Tensor | None:
    return None if buffer is None else buffer.clone()
