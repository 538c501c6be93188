"""What the networks written here share: first weights, drop-path rates, timm's construction, released weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import timm
import torch
from timm.models import build_model_with_cfg
from torch import Tensor, nn

from baselines.released import baseline_release
from overlock.checkpoints.loading import SOURCES, weights_overlay
from overlock.checkpoints.released import released_state

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


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
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "num_classes": 1000,
        "first_conv": first_conv,
        "classifier": "head",
    }


def released_state_dict(name: str) -> dict[str, Tensor]:
    """Released state dict, training form, of the registered model `name`: what `pretrained=True` loads.

    Raises:
        overlock.checkpoints.download.Unavailable: a RuntimeError, if it cannot be fetched or has the wrong sum.
        ValueError: if the file holds other weights.
    """
    with torch.device("meta"):
        model = timm.create_model(name)
    return released_state(model, baseline_release(name))


def build(cls: type[nn.Module], name: str, pretrained: bool, feature_cfg: dict[str, Any], **kwargs: Any) -> nn.Module:
    """Build `cls` under timm's conventions; `kwargs` are the class's and timm's (`features_only`, `out_indices`, ...).

    Raises:
        RuntimeError: if `pretrained` and there are no weights to load: never random weights instead.
    """
    named = kwargs.get("pretrained_cfg_overlay") or {}
    if pretrained and kwargs.get("deploy") and not any(named.get(source) for source in SOURCES):
        trained: Any = build(cls, name, True, feature_cfg, **{**kwargs, "deploy": False})  # the form that is released
        return trained.to_deploy()
    overlay = weights_overlay(kwargs.pop("pretrained_cfg_overlay", None), pretrained, lambda: released_state_dict(name))
    model = build_model_with_cfg(
        cls, name, pretrained, pretrained_cfg_overlay=overlay, feature_cfg=feature_cfg, **kwargs
    )
    cfg: Any = model.pretrained_cfg
    cfg["state_dict"] = None  # loaded by now: don't hold a second copy of the weights
    return model
