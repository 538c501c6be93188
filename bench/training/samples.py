"""Training samples whose augmentation is drawn by their place in the run: the same again after a stop."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from bench.cli import BadInput
from bench.evaluation.files import UnreadableImage
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
    """What `load` gives of an image's index, by `Place`. It raises `UnreadableImage` for one that cannot be used."""

    def __init__(self, load: Callable[[int], Any], seed: int) -> None:
        self.load, self.seed = load, seed

    def __getitem__(self, place: Place) -> Any:
        draw, i = place
        seed_all(self.seed, 0, draw)
        try:
            return self.load(i)
        except UnreadableImage as error:
            return Unreadable(str(error))


class Shares(Sampler[list[Place]]):
    """This process's places of each of the `batches`, by number; images are shuffled anew each epoch.

    An epoch has all `count` images, or where `whole` those that fill batches: the others are another epoch's luck.
    """

    def __init__(self, count: int, batch: int, batches: range, seed: int, workers: Workers, whole: bool) -> None:
        self.count, self.batch, self.batches, self.seed, self.workers = count, batch, batches, seed, workers
        self.epoch = count - count % batch if whole else count

    def __iter__(self) -> Iterator[list[Place]]:
        @lru_cache(maxsize=1)
        def order(epoch: int) -> list[int]:
            return torch.randperm(self.count, generator=torch.Generator().manual_seed(self.seed + epoch)).tolist()

        for number in self.batches:
            draws = self.workers.share(list(range(number * self.batch, (number + 1) * self.batch)))
            yield [(draw, order(draw // self.epoch)[draw % self.epoch]) for draw in draws]

    def __len__(self) -> int:
        return len(self.batches)


def batches(
    load: Callable[[int], Any],
    shares: Shares,
    loaders: int,
    pin_memory: bool,
    collate: Callable[[list[Any]], Any] = default_collate,
) -> Iterator[Any]:
    """The batches of `shares`, each `collate` of what `load` gives, read by `loaders` processes (0: by this one).

    Raises:
        BadInput: for an image that cannot be read.
    """
    samples = Samples(load, shares.seed)
    for batch in DataLoader(
        samples,
        batch_sampler=shares,
        num_workers=loaders,
        collate_fn=partial(_collated, collate),
        pin_memory=pin_memory,
    ):
        if isinstance(batch, Unreadable):
            raise BadInput(f"--data: {batch.reason}: {MEND_IMAGE}")
        yield batch


def _collated(collate: Callable[[list[Any]], Any], samples: Sequence[Any]) -> Any:
    """A batch, or the first image of it that could not be read."""
    return next((sample for sample in samples if isinstance(sample, Unreadable)), None) or collate(list(samples))
