"""What the networks written here share: first weights, drop-path rates, timm's construction, released weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg
from torch import Tensor, nn

from overlock.checkpoints import released
from overlock.checkpoints.download import Release
from overlock.checkpoints.loading import SOURCES, weights_overlay


def init_weights(module: nn.Module) -> None:
    """First weights: truncated normal of deviation 0.02 for convolution and linear, biases 0; norms keep 1 and 0."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def drop_path_rates(rate: float, depths: Sequence[int]) -> list[list[float]]:
    """Stochastic depth's rate for each block of each stage: linear from 0 at the first to `rate` at the last."""
    last = max(sum(depths) - 1, 1)
    starts = [sum(depths[:stage]) for stage in range(len(depths))]
    return [
        [rate * (start + block) / last for block in range(depth)] for start, depth in zip(starts, depths, strict=True)
    ]


def default_cfg(crop_pct: float, first_conv: str) -> dict[str, Any]:
    """timm's configuration entry: how the released ImageNet-1K weights are evaluated."""
    return {
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


def released_state_dict(file: Release) -> dict[str, Tensor]:
    """The state dict of a released file, in the training form of its model: what `pretrained=True` loads.

    Raises:
        overlock.checkpoints.download.Unavailable: a RuntimeError, if it cannot be fetched or has the wrong sum.
        ValueError: if the file holds other weights.
    """
    with torch.device("meta"):
        model = timm.create_model(file.name)
    return released.released_state(model, file)


def build(
    cls: type[nn.Module],
    name: str,
    file: Callable[[str], Release],
    pretrained: bool,
    feature_cfg: dict[str, Any],
    **kwargs: Any,
) -> nn.Module:
    """Build `cls` under timm's conventions.

    Args:
        file: gives the released file of `name`.
        kwargs: the class's and timm's (`features_only`, `out_indices`, ...).

    Raises:
        RuntimeError: if `pretrained` and there are no weights to load: never random weights instead.
    """  # fmt: skip
    named = kwargs.get("pretrained_cfg_overlay") or {}
    if pretrained and kwargs.get("deploy") and not any(named.get(source) for source in SOURCES):
        kwargs["deploy"] = False  # the form that is released
        trained: Any = build(cls, name, file, True, feature_cfg, **kwargs)
        return trained.to_deploy()
    given = kwargs.pop("pretrained_cfg_overlay", None)
    overlay = weights_overlay(given, pretrained, lambda: released_state_dict(file(name)))
    model = build_model_with_cfg(
        cls, name, pretrained, pretrained_cfg_overlay=overlay, feature_cfg=feature_cfg, **kwargs
    )
    cfg: Any = model.pretrained_cfg
    cfg["state_dict"] = None  # loaded by now: don't hold a second copy of the weights
    return model
