"""The order of a training's samples."""

from __future__ import annotations

import pytest

from bench.torchrun import Workers
from bench.training.samples import Shares


def order(shares: list[Shares]) -> list[tuple[int, int]]:
    """The places of all processes together."""
    return [place for batches in zip(*shares, strict=True) for places in batches for place in places]


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("whole", [True, False])
def test_processes_share_epochs(size: int, whole: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 6 images in batches of 4, an epoch is a batch where they are to be whole, and otherwise goes into the next."""
    monkeypatch.setenv("WORLD_SIZE", str(size))
    workers = []
    for rank in range(size):
        monkeypatch.setenv("RANK", str(rank))
        workers.append(Workers())

    def shares(start: int) -> list[Shares]:
        return [Shares(6, 4, range(start, 6), 0, one, whole) for one in workers]

    places = sorted(order(shares(0)))
    assert [draw for draw, _ in places] == list(range(24))
    images = [image for _, image in places]
    epoch = 4 if whole else 6
    epochs = [images[i : i + epoch] for i in range(0, 24, epoch)]
    assert all(len(set(one)) == epoch for one in epochs)
    assert len(set(map(tuple, epochs))) > 1
    assert sorted(order(shares(3))) == places[12:]
    assert all(len(one) == 4 // size for share in shares(0) for one in share)
