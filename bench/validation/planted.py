"""Models with a known difference, to try a measurement on: a twin of ConvNeXt-T, and one with planted extra work.

    python -m bench.compare --import bench.validation.planted --models convnext_t_twin convnext_t_slowed convnext_t

The slowed one times its own forward pass on a CPU, then multiplies small matrices for a further 5 % of that time: the
planted difference is 5 % of each call, whatever the machine does meanwhile.
"""

from __future__ import annotations

import os
import time
from typing import Any

import timm
import torch
from timm.models import register_model
from torch import Tensor, nn

import baselines  # noqa: F401 (registers the model)

EXTRA = float(os.environ.get("PLANTED_EXTRA", "0.05"))


class Slowed(nn.Module):
    """A model whose calls take `extra` more of their own time."""

    def __init__(self, model: nn.Module, extra: float) -> None:
        super().__init__()
        self.model, self.extra = model, extra
        self.small = torch.zeros(64, 64, device="cpu")  # no buffer: it is not of the model

    def forward(self, images: Tensor) -> Any:
        begin = time.perf_counter()
        out = self.model(images)
        end = time.perf_counter()
        end += self.extra * (end - begin)
        while time.perf_counter() < end:
            torch.mm(self.small, self.small)
        return out


@register_model
def convnext_t_twin(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ConvNeXt-T under another name."""
    model: nn.Module = timm.create_model("convnext_t", pretrained=pretrained, **kwargs)
    return model


@register_model
def convnext_t_slowed(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ConvNeXt-T, 5 % slower."""
    return Slowed(timm.create_model("convnext_t", pretrained=pretrained, **kwargs), EXTRA)
