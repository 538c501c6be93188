"""ConvNeXt (Liu et al., CVPR 2022, arXiv 2201.03545) from timm, pinned to one tag and one evaluation recipe.

timm's own recipe for these weights is 288 at crop 1.0, the published one 224 at crop 0.875, and a bare
`convnext_tiny` resolves to another pretraining. Under the names here it is always `fb_in1k` at 224.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import timm
from timm.models import ConvNeXt as TimmConvNeXt
from timm.models import PretrainedCfg, generate_default_cfgs, get_pretrained_cfg, register_model
from torch import Tensor, nn

from baselines import common
from overlock.checkpoints import released
from overlock.checkpoints.download import Release
from overlock.checkpoints.loading import StrictLoading
from overlock.layers import LayerNorm2d

TAG = "fb_in1k"
VARIANTS: dict[str, str] = {
    "convnext_t": f"convnext_tiny.{TAG}",
    "convnext_s": f"convnext_small.{TAG}",
    "convnext_b": f"convnext_base.{TAG}",
    "convnext_l": f"convnext_large.{TAG}",
}
HUB_FILE = "https://huggingface.co/{repository}/resolve/main/{file}"
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


def release(name: str) -> Release:
    """The file of timm's hub."""
    row = next(r for r in released.rows() if r["model"] == VARIANTS[name] and r["kind"] == "hf_hub_id")
    hashed = re.search(r"hashed file: ([\w.]+)", row["format"])
    file = hashed[1] if hashed and hashed[1] != "None" else "model.safetensors"
    url = HUB_FILE.format(repository=row["value"], file=file)
    return released.release(name, row, url, f"{VARIANTS[name]}.{file}")


def fine_tuned(name: str, resolution: int) -> Release | None:
    """The file that the authors fine-tuned at `resolution`, on ImageNet-1K alone, if they released one.

    Their figures at that resolution (ConvNeXt-B at 384: 85.1) are for this file, not for the one trained at 224.
    """
    file = f"/{VARIANTS[name].partition('.')[0]}_1k_{resolution}.pth"
    if resolution == 224 or not any(row["value"].endswith(file) for row in released.rows()):
        return None
    return common.release(name, lambda row: row["value"].endswith(file))


default_cfgs = generate_default_cfgs({f"{name}.{TAG}": _pinned(source) for name, source in VARIANTS.items()})


class ConvNeXt(StrictLoading, TimmConvNeXt):
    """timm's network, whose weights are loaded by the one strict way, whoever loads them."""


RELEASED_NAMES = (
    (r"^downsample_layers\.0\.(\d)\.", r"stem.\1."),
    (r"^downsample_layers\.(\d)\.", r"stages.\1.downsample."),
    (r"^stages\.(\d)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"\.dwconv\.", ".conv_dw."),
    (r"\.pwconv(\d)\.", r".mlp.fc\1."),
)
"""The authors' names of a backbone's tensors -> timm's."""


class ConvNeXtPyramid(nn.Module):
    """timm's ConvNeXt with `norm0..3`, a LayerNorm on each stage's output; the un-normalised map goes on.

    The names of the norms are those of released detection and segmentation backbones.
    """

    added = tuple(f"norm{i}." for i in range(4))
    """What it has beyond the classifier."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        assert isinstance(model, TimmConvNeXt)
        channels = [int(str(info["num_chs"])) for info in model.feature_info]
        self.feature_info = SimpleNamespace(channels=lambda: channels, reduction=lambda: [4, 8, 16, 32])
        self.stem, self.stages = model.stem, model.stages
        for i, c in enumerate(channels):
            self.add_module(f"norm{i}", LayerNorm2d(c))

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> the four maps, finest first."""
        x, maps = self.stem(x), []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            maps.append(self.get_submodule(f"norm{i}")(x))
        return maps

    @staticmethod
    def own_name(released: str) -> str:
        """A released name of one of its tensors under timm's names; timm's stay."""
        if not re.match(r"stages\.\d\.blocks|stem\.", released):
            for pattern, replacement in RELEASED_NAMES:
                released = re.sub(pattern, replacement, released)
        return released


def _entrypoint(name: str) -> Callable[..., nn.Module]:
    def entrypoint(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        asked = kwargs.pop("pretrained_cfg", None)  # timm passes the tag of `<name>.<tag>` here
        if asked and asked != TAG:
            raise ValueError(f"{name} is pinned to {VARIANTS[name]}: use timm's own name for other weights than {TAG}")
        overlay = RECIPE | (kwargs.pop("pretrained_cfg_overlay", None) or {})
        make = functools.partial(timm.create_model, VARIANTS[name])
        model = released.create(make, name, pretrained, lambda: release(name), pretrained_cfg_overlay=overlay, **kwargs)
        if type(model) is TimmConvNeXt:  # a pyramid of features_only is not
            model.__class__ = ConvNeXt
        return model

    entrypoint.__name__ = entrypoint.__qualname__ = name
    return entrypoint


for _name in VARIANTS:
    globals()[_name] = register_model(_entrypoint(_name))
