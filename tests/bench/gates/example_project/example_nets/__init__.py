"""A network of somebody else's, registered with timm."""

from __future__ import annotations

from typing import Any

import torch
from timm.models import register_model
from torch import Tensor, nn

WIDTH = 16


class ExampleNet(nn.Module):
    """Two convolutions, pooled, classified."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 4, 4)
        self.mix = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.head = nn.Linear(WIDTH, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.head(torch.relu(self.mix(self.stem(images))).mean((2, 3)))
        return out


@register_model
def example_tiny(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    return ExampleNet(kwargs.get("num_classes") or 10)
