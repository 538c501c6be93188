"""timm's `reparameterize_model` makes what `overlock.deploy` makes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.utils.model import reparameterize_model
from torch import nn

from overlock import OverLoCKPyramid, deploy
from tests.golden_tools import fill, image
from tests.overlock.tools import tiny

X = image(0, (2, 3, 64, 96), torch.float32)


def outputs(model: nn.Module) -> list[torch.Tensor]:
    with torch.inference_mode():
        out = model(X)
    return out if isinstance(out, list) else [out]


MADE: dict[str, Any] = {
    "classifier": lambda: tiny(aux_head=True).eval(),
    "segmentation": lambda: fill(OverLoCKPyramid(tiny())).eval(),
    "detection": lambda: fill(OverLoCKPyramid(tiny(), form="detection")).eval(),
}


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("inplace", [False, True])
def test_is_what_deploy_makes(name: str, inplace: bool) -> None:
    model, deployed = MADE[name](), deploy(MADE[name]())
    fused = reparameterize_model(model, inplace=inplace)
    assert (fused is model) == inplace
    assert (fused.frozen, model.frozen) == (True, inplace)
    state, wanted = fused.state_dict(), deployed.state_dict()
    assert list(state) == list(wanted)
    assert all(torch.equal(value, wanted[key]) for key, value in state.items())
    assert all(torch.equal(got, want) for got, want in zip(outputs(fused), outputs(deployed), strict=True))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    with pytest.raises(ValueError, match="cannot train"):
        fused.train()


def test_a_layer_that_is_not_as_made_is_refused() -> None:
    model = tiny().eval()
    nn.utils.parametrizations.weight_norm(model.blocks2[0].proj[4])
    with pytest.raises(ValueError, match=r"proj\.4 .* which folding would lose"):
        reparameterize_model(model)


def test_parameters_of_a_deployed_model_are_counted() -> None:
    """All its numbers are parameters, none trains, and folding leaves fewer than there were."""
    model = tiny()
    deployed = deploy(model)
    count = sum(p.numel() for p in deployed.parameters())
    assert count == sum(value.numel() for value in deployed.state_dict().values())
    assert 0.5 < count / sum(p.numel() for p in model.parameters()) < 1
    assert not any(p.requires_grad for p in deployed.parameters())


def test_a_part_that_is_replaced_in_a_pyramid_is_the_networks() -> None:
    pyramid = MADE["segmentation"]()
    before = outputs(pyramid)
    pyramid.high_level_proj = fill(nn.Conv2d(32, 8, 1, bias=False)).eval()
    assert not torch.equal(outputs(pyramid)[3], before[3])
