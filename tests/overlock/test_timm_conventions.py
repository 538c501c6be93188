"""timm's conventions for every registered variant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.data import resolve_data_config
from timm.models import group_parameters
from torch import Tensor, nn

import overlock
from overlock import VARIANTS
from overlock.model import HEAD_WIDTH
from tests.golden_tools import fill, image
from tests.overlock.tools import SMALLEST, blocks, built, on_meta, tiny

CROP_PCT = {"overlock_xt": 0.925, "overlock_t": 0.95, "overlock_s": 0.95, "overlock_b": 0.975}
DROP_PATH = {"overlock_xt": 0.1, "overlock_t": 0.15, "overlock_s": 0.4, "overlock_b": 0.5}
KERNELS = {"blocks1": 17, "blocks2": 15, "blocks3": 13, "blocks4": 7, "sub_blocks3": 13, "sub_blocks4": 7}


def meta_image(height: int, width: int, channels: int = 3) -> Tensor:
    return torch.empty(2, channels, height, width, device="meta")


@pytest.mark.parametrize("name", VARIANTS)
def test_registration(name: str) -> None:
    assert timm.is_model(name)
    assert timm.models.model_entrypoint(name) is getattr(overlock, name)


def test_nothing_else_is_registered() -> None:
    assert set(timm.list_models("overlock*")) == set(VARIANTS)


@pytest.mark.parametrize("name", VARIANTS)
def test_evaluation_recipe(name: str) -> None:
    model = on_meta(name, aux_head=True)
    for use_test_size in (False, True):
        recipe = resolve_data_config(model=model, use_test_size=use_test_size)
        assert recipe["input_size"] == (3, 224, 224)
        assert recipe["crop_pct"] == CROP_PCT[name]
        assert recipe["crop_mode"] == "center"
        assert recipe["interpolation"] == "bicubic"
        assert recipe["mean"] == (0.485, 0.456, 0.406)
        assert recipe["std"] == (0.229, 0.224, 0.225)
    cfg = model.default_cfg
    assert cfg["num_classes"] == model.num_classes == 1000
    assert model.get_submodule(cfg["first_conv"]).in_channels == 3
    assert [model.get_submodule(key) for key in cfg["classifier"]] == [model.get_classifier(), model.aux_head[-1]]
    assert cfg["pool_size"] == model.eval().forward_features(meta_image(224, 224)).shape[2:]


@pytest.mark.parametrize("name", VARIANTS)
def test_kernel_sizes(name: str) -> None:
    model = on_meta(name)
    for stage, kernel in KERNELS.items():
        for block in model.get_submodule(stage):
            large = block.lepe[0] if stage.startswith("sub") else block.proj[1]
            assert large.kernel_size == kernel
            if stage.startswith("sub"):
                assert block.kernel_size == kernel
                assert block.rpb2.shape[-1] == 2 * kernel - 1


@pytest.mark.parametrize("name", VARIANTS)
def test_classifier(name: str) -> None:
    model = on_meta(name, num_classes=10, in_chans=1).eval()
    features = model.forward_features(meta_image(64, 96, channels=1))
    assert features.shape == (2, model.num_features, 2, 3)
    assert model.forward_head(features, pre_logits=True).shape == (2, model.head_hidden_size) == (2, HEAD_WIDTH)
    assert model.forward_head(features).shape == (2, 10)
    for classes, width in ((7, 7), (0, HEAD_WIDTH)):
        model.reset_classifier(classes)
        assert model.num_classes == classes
        assert model.forward_head(features).shape == (2, width)
    assert isinstance(model.get_classifier(), nn.Identity)
    model.reset_classifier(3, "avg")
    assert model.get_classifier().weight.shape == (3, HEAD_WIDTH, 1, 1)


@pytest.mark.parametrize(("classes", "widths"), [(7, (7, 7)), (0, (HEAD_WIDTH, 32))])
def test_both_heads_are_reset(classes: int, widths: tuple[int, int]) -> None:
    model, x = tiny(aux_head=True), image(0, (2, 3, 64, 64), torch.float32)
    model.reset_classifier(classes)
    out = model.train()(x)
    assert (out["main"].shape[1], out["aux"].shape[1]) == widths
    assert model.eval()(x).shape == (2, widths[0])


@pytest.mark.parametrize("aux_head", [False, True])
def test_without_classifier(aux_head: bool) -> None:
    model = on_meta(SMALLEST, num_classes=0, aux_head=aux_head).eval()
    assert model(meta_image(64, 96)).shape == (2, HEAD_WIDTH)
    assert not any(key.startswith(("head.4", "aux_head.2")) for key in model.state_dict())


def test_new_classifier_has_the_models_dtype_and_first_weights() -> None:
    model = tiny(aux_head=True).double()
    model.reset_classifier(400)
    for layer in (model.get_classifier(), model.aux_head[-1]):
        assert layer.weight.dtype == torch.float64
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert not layer.bias.any()


def test_heads_agree_with_forward() -> None:
    model, x = built(SMALLEST), image(0, (2, 3, 64, 64), torch.float32)
    with torch.inference_mode():
        features = model.forward_features(x)
        hidden = model.forward_head(features, pre_logits=True)
        logits = model(x)
        assert torch.equal(model.forward_head(features), logits)
        assert torch.equal(model.get_classifier()(hidden[..., None, None]).flatten(1), logits)


def test_auxiliary_head_is_for_training_alone() -> None:
    x = image(0, (2, 3, 64, 64), torch.float32)
    model = tiny(aux_head=True)
    assert set(model.train()(x)) == {"main", "aux"}
    assert isinstance(model.eval()(x), Tensor)
    assert isinstance(tiny().train()(x), Tensor), "a plain training loop gets logits"


@pytest.mark.parametrize("name", VARIANTS)
def test_stochastic_depth(name: str) -> None:
    """Rising linearly over the blocks in the order in which they run, from 0; one rate serves both branches."""
    for model, last in ((on_meta(name), DROP_PATH[name]), (on_meta(name, drop_path_rate=0.3), 0.3)):
        rates = [getattr(block.drop_path, "drop_prob", 0.0) for block in blocks(model)]
        count = sum(VARIANTS[name]["depth"]) + sum(VARIANTS[name]["sub_depth"])
        assert rates == pytest.approx([last * i / (count - 1) for i in range(count)])
    assert not any(type(m).__name__ == "DropPath" for m in on_meta(name, drop_path_rate=0.0).modules())


@pytest.mark.parametrize("name", VARIANTS)
def test_groups_of_parameters(name: str) -> None:
    """Layer-wise learning rates: from the stem over stages and blocks, as they run, to the heads."""
    model = on_meta(name, aux_head=True)
    stages = [
        ["patch_embed1", "blocks1"],
        ["patch_embed2", "blocks2"],
        ["patch_embed3", "blocks3"],
        ["patch_embed4", "blocks4"],
        ["high_level_proj", "sub_blocks3"],
        ["patch_embedx", "sub_blocks4"],
    ]
    coarse, fine = [["patch_embed1"]], [["patch_embed1"]]
    for before, stage in stages:
        first = [] if before == "patch_embed1" else [before]
        coarse.append([*first, stage])
        for i in range(len(model.get_submodule(stage))):
            fine.append([*(first if i == 0 else []), f"{stage}.{i}"])
    for grouping, wanted in ((False, fine), (True, coarse)):
        groups = group_parameters(model, model.group_matcher(coarse=grouping))
        assert sorted(key for keys in groups.values() for key in keys) == sorted(k for k, _ in model.named_parameters())
        heads = [["head", "aux_head"]]
        assert len(groups) == len(wanted) + 1
        for i, prefixes in enumerate(wanted + heads):
            assert all(key.startswith(tuple(f"{p}." for p in prefixes)) for key in groups[i]), (i, prefixes)
            assert all(any(key.startswith(f"{p}.") for key in groups[i]) for p in prefixes), (i, prefixes)


def gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(0)  # the same stochastic depth in every run
    model.zero_grad()
    out = model(x)
    (out["main"].square().sum() + out["aux"].square().sum()).backward()
    return {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}


def test_gradient_checkpointing() -> None:
    model, x, calls = tiny(drop_path_rate=0.3, aux_head=True).double().train(), image(2, (4, 3, 64, 64)), [0]

    def count(*_: Any) -> None:
        calls[0] += 1

    for block in blocks(model):
        block.register_forward_pre_hook(count)
    wanted = gradients(model, x)
    once = len(blocks(model))
    assert calls == [once]
    model.set_grad_checkpointing()
    got = gradients(model, x)
    assert calls == [3 * once], "every block should have run twice: forward, and again in backward"
    assert wanted.keys() == got.keys() == dict(model.named_parameters()).keys()
    assert all(torch.equal(got[key], value) for key, value in wanted.items())
    model.set_grad_checkpointing(False)
    gradients(model, x)
    assert calls == [4 * once]
    model.set_grad_checkpointing()
    with torch.no_grad():
        model.eval()(x)
    assert calls == [5 * once]


def test_first_weights() -> None:
    torch.manual_seed(0)
    model = timm.create_model(SMALLEST)
    layers = {key: m for key, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    weights = torch.cat([m.weight.detach().flatten() for m in layers.values()])
    assert weights.std().item() == pytest.approx(0.02, rel=0.01)
    assert abs(weights.mean().item()) < 1e-4
    assert all(m.bias is None or not m.bias.any() for m in layers.values())
    for key, value in model.state_dict().items():
        parent, _, leaf = key.rpartition(".")
        if parent in layers or leaf == "num_batches_tracked":
            continue
        start = 1.0 if leaf in ("weight", "running_var") else 0.0  # norms and scales; biases, GRN's, rpb
        assert torch.equal(value, torch.full_like(value, start)), key


def test_another_number_of_input_channels() -> None:
    model = fill(on_meta(SMALLEST, in_chans=5, num_classes=3).to_empty(device="cpu")).eval()
    with torch.inference_mode():
        logits = model(torch.ones(2, 5, 64, 64))
    assert logits.shape == (2, 3)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", VARIANTS)
def test_pretrained_never_gives_random_weights(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("OVERLOCK_OFFLINE", "1")
    with pytest.raises(RuntimeError, match=rf"{name}: its weights are not at .*curl .* https://"):
        timm.create_model(name, pretrained=True)
