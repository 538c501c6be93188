"""ConvNeXt: timm's models under the suite's names, pinned to one tag and recipe."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from baselines.convnext import VARIANTS


@pytest.mark.parametrize(("name", "source"), VARIANTS.items())
def test_is_timms_model_with_the_tag_named(name: str, source: str) -> None:
    with torch.device("meta"):
        ours, theirs = timm.create_model(name), timm.create_model(source)
    architecture, tag = source.split(".")
    assert tag == "fb_in1k"
    assert isinstance(ours, type(theirs))
    assert str(ours) == str(theirs)
    assert (ours.default_cfg["architecture"], ours.default_cfg["tag"]) == (architecture, tag)
    for key in ("url", "hf_hub_id", "num_classes", "mean", "std", "first_conv", "classifier"):
        assert ours.default_cfg[key] == theirs.default_cfg[key]
    for lookup in (name, f"{name}.{tag}"):
        cfg = timm.models.get_pretrained_cfg(lookup)
        assert cfg.hf_hub_id == f"timm/{source}"
        assert cfg.test_input_size is cfg.test_crop_pct is None
    with torch.device("meta"):
        assert timm.create_model(f"{name}.{tag}").default_cfg == ours.default_cfg
    assert f"{name}.{tag}" in timm.list_pretrained(f"{name}*")


def test_another_tag_is_refused() -> None:
    with pytest.raises(ValueError, match=r"pinned to convnext_tiny\.fb_in1k"):
        timm.create_model("convnext_t.in12k_ft_in1k")


SMALL = {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16), "num_classes": 3}


def by_state_dict(model: nn.Module, state: dict[str, torch.Tensor], path: Path) -> None:
    model.load_state_dict(state)


def by_timms_loader(model: nn.Module, state: dict[str, torch.Tensor], path: Path) -> None:
    torch.save(state, path)
    timm.models.load_checkpoint(model, str(path))


def by_checkpoint_path(model: nn.Module, state: dict[str, torch.Tensor], path: Path) -> None:
    torch.save(state, path)
    loaded = timm.create_model("convnext_t", checkpoint_path=str(path), **SMALL)
    model.load_state_dict(loaded.state_dict())


@pytest.mark.parametrize("way", [by_state_dict, by_timms_loader, by_checkpoint_path])
def test_every_way_in_is_the_strict_one(way: Callable[..., None], tmp_path: Path) -> None:
    """What was compiled is taken; one tensor that cannot be used, the model's last, loads nothing."""
    model = timm.create_model("convnext_t", **SMALL)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    last = list(before)[-1]
    for wrong, why in ((math.nan, "1 not finite"), (True, "torch.bool")):
        state = {key: value + 1 for key, value in before.items()}
        state[last] = torch.full_like(before[last], wrong) if wrong is not True else torch.ones(3, dtype=torch.bool)
        with pytest.raises(ValueError, match=f"does not fit ConvNeXt: .*{why}.*|.*{last} is {why}"):
            way(model, state, tmp_path / "w.pth")
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    way(model, {f"_orig_mod.{key}": value + 1 for key, value in before.items()}, tmp_path / "w.pth")
    assert all(torch.equal(value, before[key] + 1) for key, value in model.state_dict().items())
