"""Training samples whose augmentation is drawn by their place in the run: the same again after a stop."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from bench.accuracy.data import ImageSet
from bench.accuracy.loader import decode
from bench.cli import BadInput
from bench.torchrun import MEND_IMAGE, Workers

Place = tuple[int, int]
"""The number of a draw in the whole run, and the image that it is of."""


def seed_all(*numbers: int) -> None:
    """Seed Python's, numpy's and torch's generators by several numbers together."""
    state = np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]
    random.seed(int(state))
    np.random.seed(int(state % 2**32))  # noqa: NPY002 (timm's augmentation draws from it)
    torch.manual_seed(int(state % 2**63))


@dataclass
class Unreadable:
    """Why an image could not be read: what a process raises would come with its traceback in the message."""

    reason: str


class Samples(Dataset[Any]):
    """A transformed image (3, H, W) and its class, by `Place`."""

    def __init__(self, images: ImageSet, where: Path, transform: Callable[[Any], Tensor], seed: int) -> None:
        self.images, self.where, self.transform, self.seed = images, where, transform, seed

    def __getitem__(self, place: Place) -> tuple[Tensor, int] | Unreadable:
        draw, i = place
        seed_all(self.seed, 0, draw)
        try:
            image = decode(self.images.source.read(i))
        except MemoryError:
            raise
        except Exception as error:  # decoders raise many kinds; whichever, the image is named
            return Unreadable(f"{self.where / self.images.source.names[i]}: {type(error).__name__}: {error}")
        return self.transform(image), self.images.labels[i]


class Shares(Sampler[list[Place]]):
    """This process's places of each batch, from batch `start` on; images are shuffled anew each epoch.

    An epoch has `count // batch` batches; what is left over is another epoch's luck.
    """

    def __init__(self, count: int, batch: int, batches: range, seed: int, workers: Workers) -> None:
        self.count, self.batch, self.batches, self.seed, self.workers = count, batch, batches, seed, workers

    def __iter__(self) -> Iterator[list[Place]]:
        epoch, order = -1, torch.empty(0)
        for number in self.batches:
            now, at = divmod(number, self.count // self.batch)
            if now != epoch:
                epoch = now
                order = torch.randperm(self.count, generator=torch.Generator().manual_seed(self.seed + epoch))
            first = at * self.batch
            yield self.workers.share([(number * self.batch + k, int(order[first + k])) for k in range(self.batch)])

    def __len__(self) -> int:
        return len(self.batches)


def collate(samples: Sequence[Any]) -> tuple[Tensor, Tensor] | Unreadable:
    """A batch (B, 3, H, W) and its classes (B,), or the first image of it that could not be read."""
    for sample in samples:
        if isinstance(sample, Unreadable):
            return sample
    return torch.stack([image for image, _ in samples]), torch.tensor([label for _, label in samples])


def readable(batches: Iterator[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """Raises BadInput for an image that could not be read."""
    for batch in batches:
        if isinstance(batch, Unreadable):
            raise BadInput(f"--data: {batch.reason}: {MEND_IMAGE}")
        yield batch
