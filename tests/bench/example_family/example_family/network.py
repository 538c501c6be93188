"""Two sizes of a small network, registered with timm, and how their weights are evaluated."""

from __future__ import annotations

from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn


class ExampleNet(nn.Module):
    def __init__(self, width: int, num_classes: int = 1000, in_chans: int = 3) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.stem = nn.Conv2d(in_chans, width, 4, 4)
        self.mix = nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.head(torch.relu(self.mix(self.stem(images))).mean((2, 3)))
        return out


CFG = {
    "input_size": (3, 160, 160),
    "crop_pct": 0.9,
    "crop_mode": "center",
    "interpolation": "bilinear",
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "num_classes": 1000,
    "first_conv": "stem",
    "classifier": "head",
}
default_cfgs = generate_default_cfgs({"example_t": CFG, "example_s": CFG})


@register_model
def example_t(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    return build_model_with_cfg(ExampleNet, "example_t", pretrained, **{"width": 16, **kwargs})


@register_model
def example_s(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    return build_model_with_cfg(ExampleNet, "example_s", pretrained, **{"width": 32, **kwargs})
