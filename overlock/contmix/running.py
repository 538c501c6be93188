"""Which implementations of ContMix run, for whoever records it."""

from __future__ import annotations

_watching: list[BackendsSeen] = []


class BackendsSeen:
    """Within it, notes the implementations of ContMix that run (`names`), in whichever thread."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def __enter__(self) -> BackendsSeen:
        _watching.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _watching.remove(self)

    @property
    def label(self) -> str:
        return "+".join(sorted(self.names))


def note(backend: str) -> None:
    """Called where an implementation runs."""
    for seen in _watching:
        seen.names.add(backend)
