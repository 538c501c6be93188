"""Fixtures of several tests of the network."""

from __future__ import annotations

import pytest

from overlock import native


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the kernels that run."""
    names: list[str] = []
    call = native.call

    def noted(name: str, *arguments: object) -> None:
        names.append(name)
        call(name, *arguments)

    monkeypatch.setattr(native, "call", noted)
    return names
