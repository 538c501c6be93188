"""One switch: spell everything out in PyTorch's public operators, for exporters that know no others (ONNX)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

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
