"""Dense backbones by the suite's model names: four maps of strides 4, 8, 16, 32, each normalised as was released."""

from __future__ import annotations

from typing import Any

import timm
from torch import nn

from bench import models

TASKS = ("segmentation", "detection")


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
    entry.family.register()
    if not timm.is_model(entry.name):
        raise models.unknown(name, timm.list_models())
    kwargs = {**entry.family.structure[entry.forms(form)[0]], **kwargs}
    return entry.family.pyramid(entry.name, task, **kwargs)
