"""Hugging Face's UperNet has the same arithmetic: its heads with our weights give our logits. Needs transformers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.bench.dense.heads import reference_model

upernet = pytest.importorskip("transformers.models.upernet.modeling_upernet", reason="transformers is not installed")

TOLERANCE = 1e-12  # float64, relative to the largest logit: the same operations on the same numbers


def theirs(kind: str, head: nn.Module) -> nn.Module:
    """Their head of a kind, with the weights of ours under their names."""
    from transformers import ResNetConfig, UperNetConfig

    config = UperNetConfig(backbone_config=ResNetConfig(), num_labels=150, auxiliary_in_channels=384)
    channels = [64, 128, 384, 640]
    try:
        made = getattr(upernet, kind)(config, in_channels=channels)
    except TypeError:  # the auxiliary head of some versions takes them from the configuration
        made = getattr(upernet, kind)(config)
    made.load_state_dict(
        {
            key.replace(".bn.", ".batch_norm.").replace("conv_seg.", "classifier."): value
            for key, value in head.state_dict().items()
        },
        strict=True,
    )
    return made.eval().double()


@torch.inference_mode()
@pytest.mark.parametrize(("kind", "name"), [("UperNetHead", "decode_head"), ("UperNetFCNHead", "auxiliary_head")])
def test_the_same_logits(kind: str, name: str) -> None:
    model = reference_model("head_upernet")
    ours = model.get_submodule(name)
    want = theirs(kind, ours)(tuple(model.backbone.maps))
    got = ours(model.backbone.maps)
    assert ((got - want).abs().max() / want.abs().max()).item() < TOLERANCE
