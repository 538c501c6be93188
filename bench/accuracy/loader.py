"""Batches of transformed images: each image is read and decoded once, however many transforms want it.

Batch k is images [k*size, (k+1)*size), whoever computes it and whenever: so sharded, resumed and plain runs feed a
network the same tensors.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bench.accuracy.recipes import Geometry
from bench.accuracy.sources import Source


@dataclass
class Batch:
    """`images[g]` is (n, 3, H, W) uint8 by geometry g; its row j is image `rows[j]`. Unreadable ones are left out."""

    number: int
    rows: list[int]
    images: dict[int, Tensor]
    unreadable: dict[int, str] = field(default_factory=dict)  # image -> why

    def pin_memory(self) -> Batch:
        self.images = {g: x.pin_memory() for g, x in self.images.items()}
        return self


def decode(content: bytes) -> Image.Image:
    """An encoded image as RGB, the way timm's data set opens it: no EXIF rotation, alpha dropped."""
    with Image.open(io.BytesIO(content)) as image:
        return image.convert("RGB")


class Batches(Dataset[Batch]):
    """Batch by number. `wanted[k]` are the geometries that batch k is needed in.

    Args:
        source: the encoded images.
        size: images a batch; the last one has what is left.
        geometries: all that are used.
    """

    def __init__(
        self, source: Source, size: int, geometries: Sequence[Geometry], wanted: dict[int, tuple[int, ...]]
    ) -> None:
        self.source, self.size, self.wanted = source, size, wanted
        self.transforms = [geometry.transform() for geometry in geometries]
        self.sizes = [geometry.size for geometry in geometries]

    def __getitem__(self, number: int) -> Batch:
        count = len(self.source.names)
        indices = range(number * self.size, min((number + 1) * self.size, count))
        images = {g: torch.empty((len(indices), 3, *self.sizes[g]), dtype=torch.uint8) for g in self.wanted[number]}
        rows: list[int] = []
        unreadable: dict[int, str] = {}
        for i in indices:
            try:
                image = decode(self.source.read(i))
                for g, out in images.items():
                    out[len(rows)] = torch.as_tensor(self.transforms[g](image))
            except MemoryError:
                raise
            except Exception as error:  # decoders raise many kinds; whichever, the image is named and counted
                unreadable[i] = f"{type(error).__name__}: {error}"
                continue
            rows.append(i)
        return Batch(number, rows, {g: x[: len(rows)] for g, x in images.items()}, unreadable)


def batches(
    source: Source,
    size: int,
    geometries: Sequence[Geometry],
    wanted: dict[int, tuple[int, ...]],
    workers: int,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """The batches that are wanted, in the order of their numbers, decoded by `workers` processes (0: by this one).

    Raises:
        RuntimeError: if a worker dies.
    """
    if not wanted:
        return
    yield from DataLoader(
        Batches(source, size, geometries, wanted),
        batch_size=None,
        sampler=sorted(wanted),
        num_workers=workers,
        collate_fn=_as_it_is,
        pin_memory=pin_memory,
    )


def _as_it_is(batch: Any) -> Any:
    return batch
