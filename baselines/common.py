"""What the networks written here share: timm's conventions of a classifier, its construction, released weights."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import SelectAdaptivePool2d
from timm.models import build_model_with_cfg
from torch import nn

from overlock.checkpoints import released
from overlock.checkpoints.download import Release
from overlock.layers import global_pooling, init_weights


class Classifier(nn.Module):
    """What timm asks of a network whose last layer is the linear `head`."""

    num_features: int
    num_classes: int
    global_pool: SelectAdaptivePool2d

    def last_layer(self) -> nn.Module:
        """The linear layer for the classes; none for 0.

        Raises:
            ValueError: for one of a map that is not pooled.
        """
        if self.num_classes and self.global_pool.is_identity():
            raise ValueError("global_pool='': a linear layer takes no map: give num_classes=0 with it")
        width = self.num_features * self.global_pool.feat_mult()
        return nn.Linear(width, self.num_classes) if self.num_classes else nn.Identity()

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        return self.get_submodule("head")

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new last layer for `num_classes` (0: none), and timm's pooling `global_pool` where it is given.

        Raises:
            ValueError: for a pooling that timm does not have, or classes without pooling; it changes nothing then.
        """
        before = self.num_classes, self.global_pool
        try:
            self.num_classes = num_classes
            if global_pool is not None:
                self.global_pool = global_pooling(global_pool)
            head = self.last_layer()
        except ValueError:
            self.num_classes, self.global_pool = before
            raise
        self.head = head.to(next(self.parameters()))
        init_weights(self.head)

    def drop_head(self) -> None:
        """What `prune_intermediate_layers` leaves of the head: the map comes out as it is."""
        self.reset_classifier(0, "")


def default_cfg(crop_pct: float, first_conv: str, file: Release) -> dict[str, Any]:
    """timm's configuration entry: how the released ImageNet-1K weights in `file` are evaluated."""
    return {
        "url": file.url,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": crop_pct,
        "crop_mode": "center",
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "num_classes": 1000,
        "first_conv": first_conv,
        "classifier": "head",
    }


def release(name: str, fits: Callable[[released.Row], bool]) -> Release:
    """The released file of the registered model `name`: the first in `weights.csv` whose row fits.

    Raises:
        ValueError: if the table has none.
    """
    for row in released.rows():
        if row["kind"] == "checkpoint_url" and fits(row):
            return released.release(name, row)
    raise ValueError(f"weights.csv has no file of {name}")


def build(
    cls: type[nn.Module],
    name: str,
    file: Callable[[str], Release],
    pretrained: bool,
    feature_cfg: dict[str, Any],
    **kwargs: Any,
) -> nn.Module:
    """Build `cls` under timm's conventions; `file` gives the released file of `name`.

    Raises:
        RuntimeError: if `pretrained` and there are no weights to load: never random weights instead.
    """
    released.refuse_unknown(cls, name, kwargs)
    named = kwargs.get("pretrained_cfg_overlay") or {}
    if pretrained and kwargs.get("deploy") and not any(named.get(source) for source in released.SOURCES):
        kwargs["deploy"] = False  # the form that is released
        trained: Any = build(cls, name, file, True, feature_cfg, **kwargs)
        return trained.to_deploy()
    make = functools.partial(build_model_with_cfg, cls, name, feature_cfg=feature_cfg)
    return released.create(make, name, pretrained, lambda: file(name), **kwargs)
