"""Every registered model in each of its forms, at many sizes: it is here because it is registered.

A family's smallest model runs at every size in the form that it is released in, its others at two; a form that only
differs in its parameters runs at one.
"""

from __future__ import annotations

import importlib

import pytest
import timm
import torch
from torch import nn

from bench.models import MODELS

SIZES = [(32, 32), (72, 72), (160, 192), (224, 224), (640, 384)]
LARGER_MODEL = [(72, 72), (160, 192)]
OTHER_FORM = [(160, 192)]


def seeded(model: nn.Module) -> nn.Module:
    """Small random weights in place of a long initialisation; running variances 1."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.fill_(1)
        elif tensor.is_floating_point():
            tensor.uniform_(-0.05, 0.05, generator=generator)
    return model.eval()


FORMS = [(name, form) for name, entry in MODELS.items() for form in entry.family.forms]
SMALLEST = {entry.family.name: name for name, entry in reversed(MODELS.items())}
"""Family -> its first model."""


def sizes_of(name: str, form: str) -> list[tuple[int, int]]:
    family = MODELS[name].family
    if form != family.forms[0]:
        return OTHER_FORM
    return SIZES if name == SMALLEST[family.name] else LARGER_MODEL


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_runs_at_every_size(name: str, form: str) -> None:
    entry = MODELS[name]
    importlib.import_module(entry.family.network)
    with torch.device("meta"):
        model = timm.create_model(entry.timm_name, **entry.family.structure[form])
    model = seeded(model.to_empty(device="cpu"))
    with torch.inference_mode():
        for size in sizes_of(name, form):
            image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(1))
            logits = model(image)
            assert logits.shape == (1, 1000), size
            assert logits.isfinite().all(), size
            if size[0] >= 160:  # smaller images leave the last maps one or two positions
                assert logits.std() > 0, size
