"""The pyramids of the dense tasks: parity with the released forms, and timm's `features_only`."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from overlock import VARIANTS, OverLoCKPyramid
from overlock.pyramid import FORMS
from tests.golden_tools import fill, golden, image, relative_error
from tests.overlock.tools import SMALLEST, built, on_meta, tiny, with_golden

RELEASED = {"seg": "segmentation", "det": "detection"}
INPUTS = {"224x288": (224, 288), "512x384": (512, 384)}


@cache
def released(name: str, form: str) -> Any:
    return built(name, f"{name}.{form}", features_only=True, dense_form=RELEASED[form]).double()


@pytest.mark.parametrize("form", RELEASED)
@pytest.mark.parametrize("size", ["224x288", pytest.param("512x384", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", with_golden(VARIANTS, ".seg"))
def test_parity(name: str, form: str, size: str) -> None:
    wanted = golden(f"{name}.{form}")
    with torch.inference_mode():
        features = released(name, form)(image(1, (1, 3, *INPUTS[size])))
    assert len(features) == 4
    for i, feature in enumerate(features):
        assert feature.shape == tuple(wanted[f"shape{i}_{size}"])
        assert relative_error(feature[:, ::8, ::4, ::4], wanted[f"feat{i}_{size}"]) < 1e-9


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", VARIANTS)
def test_features_only(name: str, form: str) -> None:
    net = on_meta(name, features_only=True, dense_form=form, in_chans=4)
    c1, c2, c3, c4 = VARIANTS[name]["dims"]
    assert net.feature_info.reduction() == [4, 8, 16, 32]
    assert net.feature_info.channels() == [c1, c2, c3 + c4 // 4, c4 + c4 // 4]
    maps = net(torch.empty(2, 4, 72, 104, device="meta"))
    sides = ((18, 26), (9, 13), (5, 7), (3, 4))  # halved and rounded up
    assert [m.shape for m in maps] == [(2, c, *s) for c, s in zip(net.feature_info.channels(), sides, strict=True)]
    assert not any(key.startswith(("head.", "aux_head.")) for key in net.state_dict())


def test_segmentation_is_the_default() -> None:
    assert on_meta(SMALLEST, features_only=True).form == "segmentation"


def pyramid(form: str = "segmentation", **kwargs: Any) -> OverLoCKPyramid:
    return fill(OverLoCKPyramid(tiny(), form=form, **kwargs)).double().eval()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("out_indices", [(1, 3), (0,), (0, 1, 2), (-1,), (2, -4)])
def test_out_indices(form: str, out_indices: tuple[int, ...]) -> None:
    x = image(5, (1, 3, 64, 96))
    with torch.inference_mode():
        every = pyramid(form)(x)
        net = pyramid(form, out_indices=out_indices)
        maps = net(x)
    wanted = sorted(i % 4 for i in out_indices)
    assert len(maps) == len(wanted)
    assert all(torch.equal(got, every[i]) for got, i in zip(maps, wanted, strict=True))
    assert net.feature_info.channels() == [m.shape[1] for m in maps]
    assert net.feature_info.reduction() == [4 * 2**i for i in wanted]


def test_out_indices_through_timm() -> None:
    net = on_meta(SMALLEST, features_only=True, out_indices=(0, 2))
    assert [m.shape[-1] for m in net(torch.empty(1, 3, 64, 64, device="meta"))] == [16, 4]


def test_what_goes_on_into_the_next_stage() -> None:
    """Stage 2 goes on normalised; stage 1 and Focus-Net's stage 3 as they are."""
    net, taken = pyramid("detection"), {}

    def note(name: str, side: int) -> None:
        def hook(_module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            taken[name] = output if side else inputs[0]

        net.get_submodule(name).register_forward_hook(hook)

    for name in ("blocks1.0", "sub_blocks3.1", "blocks4.0"):
        note(name, 1)
    for name in ("patch_embed2", "patch_embed3", "patch_embedx", "high_level_proj"):
        note(name, 0)
    with torch.inference_mode():
        features = net(image(6, (1, 3, 64, 96)))
    assert torch.equal(taken["patch_embed2"], taken["blocks1.0"])
    assert torch.equal(taken["patch_embed3"], features[1])
    assert torch.equal(taken["patch_embedx"], taken["sub_blocks3.1"])
    assert torch.equal(taken["high_level_proj"], taken["blocks4.0"])


def test_detection_adds_the_overview() -> None:
    net, x = pyramid("detection"), image(6, (1, 3, 64, 96))
    with torch.inference_mode():
        with_overview = net(x)
        for p in net.h_proj.parameters():
            p.zero_()
        without = net(x)
    assert all(torch.equal(a, b) for a, b in zip(with_overview[:3], without[:3], strict=True))
    assert relative_error(with_overview[3], without[3]) > 1e-3
    scale = OverLoCKPyramid(tiny(), form="detection").h_proj[1]
    assert torch.equal(scale.weight, torch.full_like(scale.weight, 1e-5))


def test_unknown_form() -> None:
    with pytest.raises(ValueError, match="unknown dense form 'panoptic': choose one of segmentation, detection"):
        timm.create_model(SMALLEST, features_only=True, dense_form="panoptic")


@pytest.mark.parametrize("form", FORMS)
def test_every_parameter_is_trained(form: str) -> None:
    net = pyramid(form).train()
    x = image(7, (2, 3, 64, 64))
    gradients = []
    for enable in (False, True):
        net.set_grad_checkpointing(enable)
        net.zero_grad()
        sum(m.square().mean() for m in net(x)).backward()
        gradients.append({key: p.grad.clone() for key, p in net.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == dict(net.named_parameters()).keys() == gradients[1].keys()
    assert all(torch.equal(gradients[0][key], value) for key, value in gradients[1].items())


def test_conversions_reach_the_whole_pyramid() -> None:
    x = image(8, (1, 3, 64, 64), torch.float32)
    net = fill(OverLoCKPyramid(tiny(), form="detection")).eval()
    for p in net.state_dict().values():
        assert p.dtype in (torch.float32, torch.int64)
    with torch.inference_mode():
        wanted = net(x)
        got = net.double()(x.double())
    assert {m.dtype for m in got} == {torch.float64}
    assert all(relative_error(a, b) < 1e-5 for a, b in zip(wanted, got, strict=True))
