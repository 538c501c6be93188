"""OverLoCK's variants, registered with timm: `timm.create_model("overlock_t")` after `import overlock`."""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from overlock.checkpoints.released import create, overlock_release, refuse_unknown
from overlock.model import OverLoCK
from overlock.pyramid import OverLoCKPyramid

VARIANTS: dict[str, dict[str, Any]] = {
    "overlock_xt": {
        "depth": (2, 2, 3, 2),
        "sub_depth": (6, 2),
        "dims": (56, 112, 256, 336),
        "sub_num_heads": (4, 6),
        "drop_path_rate": 0.1,
    },
    "overlock_t": {
        "depth": (4, 4, 6, 2),
        "sub_depth": (12, 2),
        "dims": (64, 128, 256, 512),
        "sub_num_heads": (4, 8),
        "drop_path_rate": 0.15,
    },
    "overlock_s": {
        "depth": (6, 6, 8, 3),
        "sub_depth": (16, 3),
        "dims": (64, 128, 320, 512),
        "sub_num_heads": (8, 16),
        "drop_path_rate": 0.4,
    },
    "overlock_b": {
        "depth": (8, 8, 10, 4),
        "sub_depth": (20, 4),
        "dims": (80, 160, 384, 576),
        "sub_num_heads": (6, 9),
        "drop_path_rate": 0.5,
    },
}

CROP_PCT = {"overlock_xt": 0.925, "overlock_t": 0.95, "overlock_s": 0.95, "overlock_b": 0.975}

default_cfgs = generate_default_cfgs(
    {
        name: {
            "input_size": (3, 224, 224),
            "pool_size": (7, 7),
            "min_input_size": (3, 32, 32),
            "crop_pct": crop_pct,
            "crop_mode": "center",
            "interpolation": "bicubic",
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
            "num_classes": 1000,
            "first_conv": "patch_embed1.0",
            "classifier": "head.4",
            "url": overlock_release(name).url,
            "license": "apache-2.0",
            "paper_ids": "arXiv:2502.20087",
        }
        for name, crop_pct in CROP_PCT.items()
    }
)


WITH_AUXILIARY_HEAD = {"classifier": ("head.4", "aux_head.2")}
"""What timm resets for another number of classes, where there are two classifiers."""


def _build(name: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    refuse_unknown(OverLoCK, name, kwargs, ("dense_form",))
    if kwargs.get("aux_head"):
        kwargs["pretrained_cfg_overlay"] = {**WITH_AUXILIARY_HEAD, **(kwargs.get("pretrained_cfg_overlay") or {})}

    def build(pretrained: bool, dense_form: str = "segmentation", **kwargs: Any) -> nn.Module:
        features = {
            "out_indices": (0, 1, 2, 3),
            "feature_cls": lambda model, **cfg: OverLoCKPyramid(model, form=dense_form, **cfg),
        }
        made: nn.Module = build_model_with_cfg(
            OverLoCK, name, pretrained, feature_cfg=features, **{**VARIANTS[name], **kwargs}
        )
        return made

    return create(build, name, pretrained, lambda: overlock_release(name, bool(kwargs.get("deploy"))), **kwargs)


@register_model
def overlock_xt(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """OverLoCK-XT. Keywords of `OverLoCK` and timm; `features_only=True` gives an `OverLoCKPyramid` (`dense_form`)."""
    return _build("overlock_xt", pretrained, **kwargs)


@register_model
def overlock_t(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """OverLoCK-T, likewise."""
    return _build("overlock_t", pretrained, **kwargs)


@register_model
def overlock_s(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """OverLoCK-S, likewise."""
    return _build("overlock_s", pretrained, **kwargs)


@register_model
def overlock_b(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """OverLoCK-B, likewise."""
    return _build("overlock_b", pretrained, **kwargs)
