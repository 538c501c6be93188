"""How an image becomes a network's input: one recipe for a model and a resolution, timm's transforms on PIL."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from bench.cli import Resolution, resolution_name
from bench.models import Entry

COMMON = ("center", 0.875, "bicubic")
"""`--recipe common`: crop mode, crop_pct and interpolation for all models alike; mean and deviation are the model's."""


@dataclass(frozen=True)
class Geometry:
    """What is done to the decoded image; models that share it share the transformed batch."""

    size: Resolution  # height, width
    crop_pct: float
    crop_mode: str  # center or squash (timm also knows border)
    interpolation: str
    border: tuple[float, float, float] | None = None  # the mean that timm's `border` mode pads with

    def transform(self) -> Callable[[Image.Image], Tensor]:
        """timm's evaluation transform up to the uint8 tensor (3, H, W)."""
        from timm.data import create_transform

        made: Callable[[Image.Image], Any] = create_transform(
            (3, *self.size),
            is_training=False,
            use_prefetcher=True,  # its uint8 output; the normalisation follows on the device
            crop_pct=self.crop_pct,
            crop_mode=self.crop_mode,
            interpolation=self.interpolation,
            mean=self.border or IMAGENET_DEFAULT_MEAN,
        )
        return made


@dataclass(frozen=True)
class Recipe:
    """A geometry and the normalisation after it."""

    geometry: Geometry
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __str__(self) -> str:
        g = self.geometry
        usual = (self.mean, self.std) == (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
        norm = "" if usual else f" mean {self.mean} std {self.std}"
        return f"{resolution_name(g.size)} {g.crop_mode} crop_pct {g.crop_pct:g} {g.interpolation}{norm}"

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self.geometry), "size": list(self.geometry.size), "mean": list(self.mean), "std": list(self.std)}


def recipe_for(
    entry: Entry, size: Resolution | None = None, common: bool = False, crop_pct: float | None = None
) -> Recipe:
    """The recipe of a model at a resolution (height, width), by default the one that its weights are evaluated at.

    At other resolutions a family keeps its crop_pct, and squashes the whole image from 384 on if it is ConvNeXt or
    UniRepLKNet, as both do whatever the weights; which weights those are is another matter (`networks.source`).
    ConvNeXt's weights, and timm's own, have a test size in timm's configuration: there its test crop holds (288 at
    1.0). `common` is `COMMON` for every model; `crop_pct` replaces the recipe's.
    """
    cfg: Any = entry.family.configuration(entry.name)
    tested = cfg.test_input_size
    if size is None:
        size = (entry.resolution, entry.resolution) if entry.resolution else tuple((tested or cfg.input_size)[1:])
    crop, mode = cfg.crop_pct or COMMON[1], cfg.crop_mode or "center"
    if entry.family.squash_from is not None and min(size) >= entry.family.squash_from:
        crop, mode = 1.0, "squash"
    if tested and tuple(tested[1:]) == size and cfg.test_crop_pct:
        crop = cfg.test_crop_pct
    border = cfg.mean if mode == "border" else None
    recipe = Recipe(Geometry(size, crop, mode, cfg.interpolation, border), cfg.mean, cfg.std)
    if common:
        mode, pct, interpolation = COMMON
        recipe = replace(recipe, geometry=Geometry(size, pct, mode, interpolation))
    if crop_pct is not None:
        recipe = replace(recipe, geometry=replace(recipe.geometry, crop_pct=crop_pct))
    return recipe
