"""What is measured: a model (or the aggregation) in one form, layout and precision, as a function to call again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import baselines  # noqa: F401 - registers ConvNeXt and UniRepLKNet
from overlock import deploy, set_backend
from tests.benchmarks import aggregation
from tests.golden_tools import fill

AUX_WEIGHT = 0.4  # of the auxiliary loss, in the released recipe
CLASSES = 1000
AGGREGATION = (8, 8, 14, 14, 16, 13)  # batch, heads, height, width, channels of a head, kernel: stage 3 of T at 224


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    Attributes:
        model: a registered name, or `aggregation` (then `form` is `tiled` or `unfold`).
        form: `deploy`, `train` (the training form, in evaluation mode) or `reference` (that, ContMix as it is defined).
        layout: `NCHW` or `channels_last`; the deploy form of OverLoCK runs channels_last inside whatever comes in.
        task: `inference` or `training step` (forward, loss, backward, AdamW).
    """

    model: str
    form: str = "train"
    layout: str = "channels_last"
    dtype: str = "float32"
    height: int = 224
    width: int = 224
    batch: int = 8
    task: str = "inference"

    def __str__(self) -> str:
        return (
            f"{self.model} {self.form}, {self.layout}" if self.model != "aggregation" else f"{self.model} {self.form}"
        )

    def prepare(self) -> Callable[[], Any]:
        """Build everything; the function returned runs once, in inference mode where it is for inference."""
        if self.model == "aggregation":
            make = {"tiled": aggregation.by_tiles, "unfold": aggregation.by_unfold}[self.form]
            return _inference(make(*aggregation.inputs(*AGGREGATION)))
        dtype: torch.dtype = getattr(torch, self.dtype)
        memory_format = torch.channels_last if self.layout == "channels_last" else torch.contiguous_format
        model = fill(timm.create_model(self.model)).eval()
        if self.form == "reference":
            set_backend(model, "reference")
        if self.form == "deploy":
            model = deploy(model)
        model = model.to(dtype=dtype, memory_format=memory_format)
        generator = torch.Generator().manual_seed(0)
        images = [
            torch.randn(self.batch, 3, self.height, self.width, generator=generator)
            .to(dtype)
            .contiguous(memory_format=memory_format)
            for _ in range(2)
        ]
        if self.task == "training step":
            return training_step(model, images)
        return _inference(lambda: model(_next(images)))


def _next(images: list[Tensor]) -> Tensor:
    images.append(images.pop(0))
    return images[0]


def _inference(call: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        with torch.inference_mode():
            return call()

    return run


def training_step(model: nn.Module, images: list[Tensor]) -> Callable[[], Tensor]:
    """Forward, loss (with the auxiliary one where the model has it), backward and AdamW; returns the loss."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    labels = torch.arange(len(images[0])) % CLASSES

    def run() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        out = model(_next(images))
        if isinstance(out, dict):
            loss = F.cross_entropy(out["main"], labels) + AUX_WEIGHT * F.cross_entropy(out["aux"], labels)
        else:
            loss = F.cross_entropy(out, labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return run
