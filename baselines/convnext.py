"""ConvNeXt (Liu et al., CVPR 2022, arXiv 2201.03545) from timm, pinned to one tag and one evaluation recipe.

timm's own recipe for these weights is 288 at crop 1.0, the published one 224 at crop 0.875, and a bare
`convnext_tiny` resolves to another pretraining. Under the names here it is always `fb_in1k` at 224.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import timm
from timm.models import PretrainedCfg, generate_default_cfgs, get_pretrained_cfg, register_model
from torch import nn

from baselines import common
from overlock.checkpoints.loading import weights_overlay

TAG = "fb_in1k"
VARIANTS: dict[str, str] = {
    "convnext_t": f"convnext_tiny.{TAG}",
    "convnext_s": f"convnext_small.{TAG}",
    "convnext_b": f"convnext_base.{TAG}",
    "convnext_l": f"convnext_large.{TAG}",
}
RECIPE: dict[str, Any] = {
    "input_size": (3, 224, 224),
    "crop_pct": 0.875,
    "crop_mode": "center",
    "interpolation": "bicubic",
    "test_input_size": None,
    "test_crop_pct": None,
}


def _pinned(source: str) -> PretrainedCfg:
    cfg = get_pretrained_cfg(source)
    assert cfg is not None, f"timm no longer has {source}"
    return replace(cfg, **RECIPE)


default_cfgs = generate_default_cfgs({f"{name}.{TAG}": _pinned(source) for name, source in VARIANTS.items()})


def _entrypoint(name: str) -> Callable[..., nn.Module]:
    def entrypoint(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        asked = kwargs.pop("pretrained_cfg", None)  # timm passes the tag of `<name>.<tag>` here
        if asked and asked != TAG:
            raise ValueError(f"{name} is pinned to {VARIANTS[name]}: use timm's own name for other weights than {TAG}")
        given = RECIPE | (kwargs.pop("pretrained_cfg_overlay", None) or {})
        overlay = weights_overlay(given, pretrained, lambda: common.released_state_dict(name))
        model: nn.Module = timm.create_model(VARIANTS[name], pretrained, pretrained_cfg_overlay=overlay, **kwargs)
        cfg: Any = model.pretrained_cfg
        cfg["state_dict"] = None  # loaded by now: don't hold a second copy of the weights
        return model

    entrypoint.__name__ = entrypoint.__qualname__ = name
    return entrypoint


for _name in VARIANTS:
    globals()[_name] = register_model(_entrypoint(_name))
