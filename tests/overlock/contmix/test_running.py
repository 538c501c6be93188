"""Which implementations of ContMix ran is noted where they run."""

from __future__ import annotations

import pytest
import torch

from overlock import deploy, set_backend
from overlock.contmix import BackendsSeen, contmix
from overlock.tracing import separate_operators
from tests.golden_tools import image
from tests.overlock.contmix.cases import SCALE, Case
from tests.overlock.tools import tiny


@pytest.mark.parametrize("name", ["tiled", "reference"])
def test_the_operator(name: str) -> None:
    with BackendsSeen() as outer, BackendsSeen() as seen:
        contmix(*Case(7, 7, 7).inputs(torch.float32), SCALE, name)
    contmix(*Case(7, 7, 7).inputs(torch.float32), SCALE, "tiled" if name == "reference" else "reference")
    assert seen.names == outer.names == {name}


def test_differentiated_step_by_step() -> None:
    with BackendsSeen() as seen:
        contmix(*[x.requires_grad_() for x in Case(7, 7, 7).inputs(torch.float32)], SCALE, "reference")
    assert seen.label == "reference"


@pytest.mark.parametrize("backend", ["auto", "tiled"])
def test_a_deployed_network(backend: str) -> None:
    """The same whether its blocks are one call each or run operator by operator."""
    model, x = set_backend(deploy(tiny().eval()), backend), image(0, (1, 3, 224, 224), torch.float32)
    with torch.no_grad(), BackendsSeen() as seen:
        model(x)
    with torch.no_grad(), separate_operators(), BackendsSeen() as separate:
        model(x)
    assert seen.names == separate.names
    assert len(seen.names) == 1
    assert backend in ("auto", *seen.names)
