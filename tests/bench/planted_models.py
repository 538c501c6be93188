"""Small models that a test can measure in no time, each with one trouble: imported by `--import planted_models`."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from timm.models import register_model
from torch import Tensor, nn


class Tiny(nn.Module):
    """One convolution, pooled, classified."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.head = nn.Linear(8, 10)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.head(self.stem(images).mean((2, 3)))
        return out


class Undefined(Tiny):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) * float("nan")


class Starved(Tiny):
    def forward(self, images: Tensor) -> Tensor:
        if not images.is_meta:
            torch.empty(1 << 60)
        return super().forward(images)


class KilledOnce(Tiny):
    """Kills its process at its first calls, unless another process already did: `KILLED` names a file that tells."""

    def forward(self, images: Tensor) -> Tensor:
        marker = Path(os.environ["KILLED"])
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(images)


class Uneven(Tiny):
    """A block of it (one call, after one that does not count) takes three times as long as the next one."""

    calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        time.sleep(0.03 * (3 if self.calls // 2 % 2 else 1))
        return super().forward(images)


@register_model
def tiny(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    return Tiny()


@register_model
def tiny_undefined(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    return Undefined()


@register_model
def tiny_starved(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    return Starved()


@register_model
def tiny_uneven(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    return Uneven()


@register_model
def tiny_killed_once(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    return KilledOnce()
