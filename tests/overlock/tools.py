"""OverLoCKs to test: of the registry, quickly built, and a tiny one with every kind of block."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import nn

from overlock import OverLoCK
from tests.golden_tools import GOLDEN, fill

SMALLEST = "overlock_xt"


def on_meta(name: str, **kwargs: Any) -> Any:
    """The registered model without weights: names, shapes and costs, at no cost."""
    with torch.device("meta"):
        return timm.create_model(name, **kwargs)


def built(name: str, source: str | None = None, **kwargs: Any) -> Any:
    """The registered model in evaluation mode with the deterministic weights of `golden_tools.fill`."""
    return fill(on_meta(name, **kwargs).to_empty(device="cpu"), source).eval()


def tiny(num_classes: int = 5, **kwargs: Any) -> OverLoCK:
    """One block a stage, and two in Focus-Net's first, as only its very first does not mix the prior."""
    model = OverLoCK(
        depth=(1, 1, 1, 1),
        sub_depth=(2, 1),
        dims=(8, 16, 16, 32),
        sub_num_heads=(1, 2),
        num_classes=num_classes,
        mlp_ratio=2,
        sub_mlp_ratio=2,
        **kwargs,
    )
    return fill(model)


def blocks(model: nn.Module) -> list[nn.Module]:
    """All blocks in the order in which they run."""
    stages = ("blocks1", "blocks2", "blocks3", "blocks4", "sub_blocks3", "sub_blocks4")
    return [block for stage in stages for block in model.get_submodule(stage).children()]


def with_golden(names: Any, suffix: str = "") -> list[str]:
    """Those of `names` that have reference outputs."""
    found = [name for name in names if (GOLDEN / f"{name}{suffix}.npz").exists()]
    assert found, f"no reference outputs *{suffix}.npz in {GOLDEN}"
    return found
