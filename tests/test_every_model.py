"""Every registered model in each of its forms, at many sizes: it is here because it is registered.

The form that a model is released in runs at every size; a form that only differs in its parameters, at one.
"""

from __future__ import annotations

import importlib

import pytest
import timm
import torch
from torch import nn

from bench.models import MODELS

SIZES = [(32, 32), (72, 72), (160, 192), (224, 224), (640, 384)]
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


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_runs_at_every_size(name: str, form: str) -> None:
    entry = MODELS[name]
    importlib.import_module(entry.family.network)
    with torch.device("meta"):
        model = timm.create_model(entry.timm_name, **entry.family.structure[form])
    model = seeded(model.to_empty(device="cpu"))
    with torch.inference_mode():
        for size in SIZES if form == entry.family.forms[0] else OTHER_FORM:
            image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(1))
            logits = model(image)
            assert logits.shape == (1, 1000), size
            assert logits.isfinite().all(), size
            if size[0] >= 160:  # smaller images leave the last maps one or two positions
                assert logits.std() > 0, size
