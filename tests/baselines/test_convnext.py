"""ConvNeXt: timm's models under the suite's names, pinned to one tag and recipe."""

from __future__ import annotations

import pytest
import timm
import torch

from baselines.convnext import VARIANTS


@pytest.mark.parametrize(("name", "source"), VARIANTS.items())
def test_is_timms_model_with_the_tag_named(name: str, source: str) -> None:
    with torch.device("meta"):
        ours, theirs = timm.create_model(name), timm.create_model(source)
    architecture, tag = source.split(".")
    assert tag == "fb_in1k"
    assert type(ours) is type(theirs)
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
