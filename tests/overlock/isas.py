"""The instruction sets that the C kernels are tested in: all that the machine has."""

from __future__ import annotations

import pytest

from overlock import native

HERE = native.isas() if native.why_not() is None else ()


def others() -> list[str]:
    """Those that the tests don't run in anyway."""
    return [name for name in HERE if name != native.isa()]


def compile_for(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a test, the kernels are those of `isa`."""
    monkeypatch.setenv(native.ISA_VARIABLE, isa)
    assert native.why_not() is None
