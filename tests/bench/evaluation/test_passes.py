"""A pass over images in the processes of torchrun: each batch once, and every process has every result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import pytest

from bench.dense.evaluation import JSONLines
from bench.evaluation import passes
from bench.evaluation.passes import Missing
from bench.evaluation.store import Store
from bench.torchrun import Workers

NAMES = "abcdefg"


@dataclass
class Letter:
    number: int
    unreadable: dict[int, str] = field(default_factory=dict)


class Threads(Workers):
    """Processes that are pretended by threads."""

    def __init__(self, rank: int, size: int, slots: list[Any], barrier: Barrier) -> None:
        super().__init__()
        self.rank, self.size, self.slots, self.barrier = rank, size, slots, barrier

    def gather(self, value: Any) -> list[Any]:
        self.slots[self.rank] = value
        self.barrier.wait()
        values = list(self.slots)
        self.barrier.wait()
        return values


@pytest.mark.parametrize("size", [1, 2, 3])
def test_shared_and_resumed(size: int, tmp_path: Path) -> None:
    """Of two models one has results of two images; one image cannot be read."""
    first = Store(tmp_path / "0", {}, JSONLines(NAMES))
    first.add(1, {"value": "before"})
    first.add(4, {"value": "before"})
    first.close()
    slots: list[Any] = [None] * size
    barrier, started, returned = Barrier(size), [], {}

    def read(missing: Missing) -> Iterator[Letter]:
        assert all(lacking == ([1] if number in (1, 4) else [0, 1]) for number, lacking in missing.items())
        return (Letter(number, {2: "torn"} if number == 2 else {}) for number in missing)

    def start(letter: Letter, lacking: list[int]) -> list[Callable[[], dict[str, Any]]]:
        started.append(letter.number)
        return [] if letter.unreadable else [lambda s=s: {"value": s} for s in lacking]  # type: ignore[misc]

    def process(rank: int) -> None:
        stores = [Store(tmp_path / str(s), {}, JSONLines(NAMES), rank) for s in range(2)]
        returned[rank] = passes.run(stores, len(NAMES), 1, read, start, Threads(rank, size, slots, barrier))
        for store in stores:
            store.close()

    threads = [Thread(target=process, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(started) == list(range(7))
    wanted = [
        {i: {"value": "before" if i in (1, 4) else 0} for i in range(7) if i != 2},
        {i: {"value": 1} for i in range(7) if i != 2},
    ]
    for rank in range(size):
        assert returned[rank] == (wanted, {2: "torn"})


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_shares_are_everything_once(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(size))
    shares = []
    for rank in range(size):
        monkeypatch.setenv("RANK", str(rank))
        shares += Workers().share(list(range(5)))
    assert sorted(shares) == list(range(5))
