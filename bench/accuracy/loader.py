"""Batches of transformed images: each image is read and decoded once, however many transforms want it."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from bench.accuracy.recipes import Geometry
from bench.accuracy.sources import Source
from bench.evaluation.passes import loaded
from bench.evaluation.store import images_of


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
    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.convert("RGB")
    except UnidentifiedImageError as error:  # Pillow's words have an address in memory, another one in each process
        raise UnidentifiedImageError("no image that Pillow knows") from error


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
        indices = images_of(number, self.size, len(self.source.names))
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
        BadInput: if a process dies.
    """
    return loaded(Batches(source, size, geometries, wanted), sorted(wanted), workers, pin_memory)
