"""The recipe of every registered model at every resolution that the suite speaks of."""

from __future__ import annotations

import pytest

from bench.accuracy.recipes import COMMON, recipe_for
from bench.models import MODELS, entry_for_timm

OVERLOCK_CROP = {"overlock_xt": 0.925, "overlock_t": 0.95, "overlock_s": 0.95, "overlock_b": 0.975}


def expected(name: str, size: int) -> tuple[str, float]:
    """Crop mode and crop_pct, as published by each family, and by timm for ConvNeXt at 288."""
    family = name.partition("_")[0]
    if family in ("convnext", "unireplknet") and size >= 384:
        return "squash", 1.0
    if family == "convnext" and size == 288:
        return "center", 1.0
    return "center", {"convnext": 0.875, "unireplknet": 0.875, "moganet": 0.9}.get(family) or OVERLOCK_CROP[name]


@pytest.mark.parametrize("size", [224, 256, 288, 384, 512])
@pytest.mark.parametrize("name", MODELS)
def test_own(name: str, size: int) -> None:
    g = recipe_for(MODELS[name], (size, size)).geometry
    assert (g.crop_mode, g.crop_pct, g.size, g.interpolation) == (*expected(name, size), (size, size), "bicubic")


@pytest.mark.parametrize("name", MODELS)
def test_without_a_resolution_it_is_the_one_of_the_weights(name: str) -> None:
    size = 384 if name in ("unireplknet_b", "unireplknet_l", "unireplknet_xl") else 224
    assert recipe_for(MODELS[name]) == recipe_for(MODELS[name], (size, size))


def test_timms_names_have_timms_recipe() -> None:
    entry = entry_for_timm("convnext_base.fb_in1k")
    assert str(recipe_for(entry)) == "288 center crop_pct 1 bicubic"
    assert str(recipe_for(entry, (224, 224))) == "224 center crop_pct 0.875 bicubic"
    inception = recipe_for(entry_for_timm("vit_base_patch16_224.augreg_in21k_ft_in1k"))
    assert inception.mean == (0.5, 0.5, 0.5)
    assert "mean (0.5" in str(inception)


@pytest.mark.parametrize("size", [224, 384])
def test_common_is_one_for_all(size: int) -> None:
    mode, crop_pct, interpolation = COMMON
    (g,) = {recipe_for(entry, (size, size), common=True).geometry for entry in MODELS.values()}
    assert (g.crop_mode, g.crop_pct, g.interpolation) == (mode, crop_pct, interpolation)


def test_a_crop_asked_for_holds() -> None:
    assert recipe_for(MODELS["overlock_t"], (224, 224), crop_pct=0.8).geometry.crop_pct == 0.8


def test_both_sides_count() -> None:
    assert recipe_for(MODELS["convnext_b"], (384, 512)).geometry.crop_mode == "squash"
    assert recipe_for(MODELS["convnext_b"], (256, 512)).geometry.crop_mode == "center"
