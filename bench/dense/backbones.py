"""Dense backbones by the suite's model names: four maps of strides 4, 8, 16, 32, each normalised as was released."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

import timm
from timm.models import ConvNeXt
from torch import Tensor, nn

from bench import models
from bench.cli import BadInput
from overlock.layers import LayerNorm2d

STRIDES = [4, 8, 16, 32]
TASKS = ("segmentation", "detection")


class ConvNeXtPyramid(nn.Module):
    """timm's ConvNeXt with `norm0..3`, a LayerNorm on each stage's output; the un-normalised map goes on."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        assert isinstance(model, ConvNeXt)
        channels = [int(str(info["num_chs"])) for info in model.feature_info]
        self.feature_info = SimpleNamespace(channels=lambda: channels, reduction=lambda: STRIDES)
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


def build_backbone(name: str, task: str, form: str = "deploy", **kwargs: Any) -> nn.Module:
    """The dense backbone of a model, with random weights.

    Args:
        name: short name, alias, or timm name.
        task: "segmentation" or "detection" (OverLoCK's backbones differ).
        form: "train" or "deploy": the structure that is built; a model with one form is built in that.
        kwargs: for the model's builder.

    Raises:
        BadInput: for a name that nobody has, or a model without maps of the four strides.
    """
    assert task in TASKS, task
    entry = models.find(name) or models.entry_for_timm(name)
    importlib.import_module(entry.family.package)
    if not timm.is_model(entry.timm_name):
        raise models.unknown(name, timm.list_models())
    kwargs = {**entry.family.structure[entry.forms(form)[0]], **kwargs}
    if entry.family is models.OVERLOCK:
        kwargs["dense_form"] = task
    if entry.family is models.CONVNEXT:
        return ConvNeXtPyramid(timm.create_model(entry.timm_name, **kwargs))
    if entry.family is models.TIMM:
        kwargs["out_indices"] = _four_strides(name, entry.timm_name)
    return timm.create_model(entry.timm_name, features_only=True, **kwargs)


def _four_strides(name: str, timm_name: str) -> list[int]:
    """Indices of a timm model's maps of strides 4, 8, 16, 32."""
    try:
        model: Any = timm.create_model(timm_name, features_only=True)
        reductions = model.feature_info.reduction()
    except (RuntimeError, AttributeError) as error:
        raise BadInput(f"{name} gives no feature maps (features_only): {error}") from error
    if not set(STRIDES) <= set(reductions):
        raise BadInput(f"{name} gives maps of strides {reductions}: a dense head needs {STRIDES}")
    return [len(reductions) - 1 - reductions[::-1].index(stride) for stride in STRIDES]
