"""Every registered baseline: timm's conventions, any size, both memory layouts, gradients."""

from __future__ import annotations

import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.data import resolve_data_config
from timm.models import group_parameters
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import baselines
from tests.golden_tools import fill, image, relative_error

OURS = [name for name in baselines.MODELS if not name.startswith("convnext")]
SMALLEST = ["unireplknet_a", "moganet_xt", "convnext_t"]  # one of each family, where any one will do
NETWORKS = {name: sys.modules[timm.models.model_entrypoint(name).__module__] for name in OURS}
DEPTH = {name: sum(network.VARIANTS[name]["depths"]) for name, network in NETWORKS.items()}
CROP_PCT = {"unireplknet": 0.875, "moganet": 0.9, "convnext": 0.875}


def on_meta(name: str, **kwargs: Any) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name, **kwargs).eval()


@cache
def shared(name: str) -> nn.Module:
    """The same, for tests that only look at it."""
    return on_meta(name)


def meta_image(height: int, width: int, channels: int = 3) -> Tensor:
    return torch.empty(2, channels, height, width, device="meta")


@pytest.mark.parametrize("name", baselines.MODELS)
def test_registration(name: str) -> None:
    assert timm.is_model(name)
    assert not hasattr(timm.models, name), "this name is timm's own: the suite would shadow it"
    assert timm.models.model_entrypoint(name).__module__.startswith("baselines.")
    assert timm.models.get_pretrained_cfg(name).input_size == (3, 224, 224)


@pytest.mark.parametrize("name", baselines.MODELS)
def test_recipe(name: str) -> None:
    model = shared(name)
    for use_test_size in (False, True):
        recipe = resolve_data_config(model=model, use_test_size=use_test_size)
        assert recipe["input_size"] == (3, 224, 224)
        assert recipe["crop_pct"] == CROP_PCT[name.split("_")[0]]
        assert recipe["interpolation"] == "bicubic"
        assert recipe["mean"] == (0.485, 0.456, 0.406)
        assert recipe["std"] == (0.229, 0.224, 0.225)
    cfg = model.default_cfg
    assert cfg["num_classes"] == model.num_classes == 1000
    assert model.get_submodule(cfg["first_conv"]).in_channels == 3
    assert model.get_submodule(cfg["classifier"]) is model.get_classifier()
    assert cfg["pool_size"] == model.forward_features(meta_image(224, 224)).shape[2:]


@pytest.mark.parametrize("name", baselines.MODELS)
def test_features_only(name: str) -> None:
    net = on_meta(name, features_only=True, in_chans=4)
    assert net.feature_info.reduction() == [4, 8, 16, 32]
    assert "head.weight" not in net.state_dict()
    # ConvNeXt's strided convolutions have no padding, so its maps are H // s and not ceil(H / s)
    maps = net(meta_image(72, 104, channels=4))
    rounded = (lambda n, s: n // s) if name.startswith("convnext") else (lambda n, s: -(-n // s))
    assert [m.shape for m in maps] == [
        (2, c, rounded(72, s), rounded(104, s))
        for c, s in zip(net.feature_info.channels(), (4, 8, 16, 32), strict=True)
    ]


@pytest.mark.parametrize("name", SMALLEST)
@pytest.mark.parametrize("out_indices", [(1, 3), (0,), (0, 1, 2)])
def test_features_only_out_indices(name: str, out_indices: tuple[int, ...]) -> None:
    every = on_meta(name, features_only=True)
    net = on_meta(name, features_only=True, out_indices=out_indices)
    every, net = (fill(m.to_empty(device="cpu")) for m in (every, net))
    x = image(5, (1, 3, 64, 96), torch.float32)
    wanted, maps = every(x), net(x)
    assert len(maps) == len(out_indices)
    for i, m in zip(out_indices, maps, strict=True):
        assert torch.equal(m, wanted[i])
    assert net.feature_info.channels() == [m.shape[1] for m in maps]
    torch.stack([m.sum() for m in maps]).sum().backward()
    assert all(p.grad is not None for p in net.parameters()), "layers past the last map asked for are still there"


@pytest.mark.parametrize("name", baselines.MODELS)
def test_classifier_conventions(name: str) -> None:
    model = on_meta(name, num_classes=10, in_chans=1)
    x = meta_image(64, 96, channels=1)
    features = model.forward_features(x)
    assert features.shape == (2, model.num_features, 2, 3)
    assert model.forward_head(features, pre_logits=True).shape == (2, model.num_features)
    assert model.forward_head(features).shape == (2, 10)
    model.reset_classifier(7)
    model.to("meta")  # older timm makes ConvNeXt's new head on the default device
    assert model.num_classes == 7
    assert model.get_classifier().weight.shape == (7, model.num_features)
    assert model.forward_head(features).shape == (2, 7)
    model.reset_classifier(0)
    assert model.forward_head(features).shape == (2, model.num_features)
    model.reset_classifier(0, "")
    assert model(x).shape == (2, model.num_features, 2, 3)


@pytest.mark.parametrize("name", SMALLEST)
def test_built_without_classifier(name: str) -> None:
    model = on_meta(name, num_classes=0)
    assert model(meta_image(64, 96)).shape == (2, model.num_features)
    assert not any(key.startswith(model.default_cfg["classifier"]) for key in model.state_dict())


@pytest.mark.parametrize("name", OURS)
def test_reset_classifier_keeps_dtype(name: str) -> None:
    model = on_meta(name).double()
    model.reset_classifier(3, "avg")
    assert model.get_classifier().weight.dtype == torch.float64
    assert model.get_classifier().weight.device.type == "meta"


@pytest.mark.parametrize("name", OURS)
def test_group_matcher(name: str) -> None:
    model = shared(name)
    for coarse, blocks in ((True, 4), (False, DEPTH[name])):
        groups = group_parameters(model, model.group_matcher(coarse=coarse))
        assert sorted(key for keys in groups.values() for key in keys) == sorted(k for k, _ in model.named_parameters())
        assert len(groups) == 1 + blocks + 1  # stem, blocks (or stages), head
        assert model.default_cfg["first_conv"] + ".weight" in groups[0]
        assert set(groups[blocks + 1]) - {"norm.weight", "norm.bias"} == {"head.weight", "head.bias"}


@pytest.mark.parametrize("name", OURS)
def test_drop_path_rates(name: str) -> None:
    model = on_meta(name, drop_path_rate=0.3)
    rates = [m.drop_prob for m in model.modules() if type(m).__name__ == "DropPath"]
    last = DEPTH[name] - 1
    assert rates == pytest.approx([0.3 * i / last for i in range(1, last + 1)])  # the first block drops nothing


@pytest.mark.parametrize("name", baselines.MODELS)
def test_pretrained_never_gives_random_weights(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("OVERLOCK_OFFLINE", "1")
    with pytest.raises(RuntimeError, match=rf"{name}: its weights are not at .*curl .* https://"):
        timm.create_model(name, pretrained=True)


@pytest.mark.parametrize("name", ["unireplknet_a", "moganet_xt"])
def test_pretrained_loads_what_the_hook_gives(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    released = fill(timm.create_model(name)).state_dict()
    monkeypatch.setattr("overlock.checkpoints.released.fetch", lambda file: Path(file.name))
    monkeypatch.setattr(
        "overlock.checkpoints.released.read_checkpoint", lambda path: dict(released) if str(path) == name else {}
    )
    model = timm.create_model(name, pretrained=True)
    assert model.state_dict().keys() == released.keys()
    assert all(torch.equal(value, released[key]) for key, value in model.state_dict().items())
    assert not model.pretrained_cfg.get("state_dict")

    adapted = timm.create_model(name, pretrained=True, num_classes=5, in_chans=1)
    first = model.default_cfg["first_conv"] + ".weight"
    torch.testing.assert_close(adapted.state_dict()[first], released[first].sum(1, keepdim=True))
    assert adapted(torch.zeros(2, 1, 64, 64)).shape == (2, 5)

    del released[first]
    with pytest.raises(RuntimeError, match=re.escape(first)):
        timm.create_model(name, pretrained=True)


@pytest.mark.parametrize("name", ["unireplknet_a", "moganet_xt"])
def test_first_weights(name: str) -> None:
    model = timm.create_model(name)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    weights = torch.cat([m.weight.detach().flatten() for m in layers])
    assert weights.std().item() == pytest.approx(0.02, rel=0.01)
    assert abs(weights.mean().item()) < 1e-4
    assert all(m.bias is None or not m.bias.any() for m in layers)
    for key, value in model.named_parameters():
        leaf = key.rsplit(".", 1)[-1]
        if leaf == "scale" or leaf.startswith("layer_scale"):
            assert torch.equal(value, torch.full_like(value, 1e-5))
        elif key.endswith("act.1.gamma"):
            assert not value.any()
        elif leaf == "gamma":
            assert torch.equal(value, torch.full_like(value, 1e-6))


@pytest.mark.parametrize("name", SMALLEST)
def test_channels_last_equals_contiguous(name: str) -> None:
    model = fill(timm.create_model(name)).double().eval()
    x = image(1, (2, 3, 33, 47))
    with torch.inference_mode():
        wanted = model(x)
        model.to(memory_format=torch.channels_last)
        assert relative_error(model(x.to(memory_format=torch.channels_last)), wanted) < 1e-12


def gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(0)  # the same stochastic depth in both runs
    model.zero_grad()
    model(x).square().sum().backward()
    return {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", SMALLEST)
def test_gradient_checkpointing(name: str) -> None:
    model = fill(timm.create_model(name, drop_path_rate=0.3)).double().train()
    x = image(2, (2, 3, 64, 64))
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    block = next(m for m in model.modules() if type(m).__name__.endswith("Block"))
    block.register_forward_pre_hook(count)
    wanted = gradients(model, x)
    assert calls == 1
    model.set_grad_checkpointing()
    got = gradients(model, x)
    assert calls == 3, "the block should have run twice: forward, and again in backward"
    assert wanted.keys() == got.keys() == dict(model.named_parameters()).keys()
    assert all(torch.equal(got[key], value) for key, value in wanted.items())
    model.set_grad_checkpointing(False)
    gradients(model, x)
    assert calls == 4


@pytest.mark.parametrize("name", ["unireplknet_a", "moganet_xt"])
@pytest.mark.parametrize("autocast", [False, True])
def test_training_step_is_finite(name: str, autocast: bool) -> None:
    model = fill(timm.create_model(name, drop_path_rate=0.1))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = nn.functional.cross_entropy(model(image(3, (2, 3, 64, 64), torch.float32)), torch.tensor([1, 2]))
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", ["unireplknet_a", "moganet_xt"])
def test_bfloat16(name: str) -> None:
    model = fill(timm.create_model(name)).eval()
    x = image(4, (1, 3, 96, 64), torch.float32)
    with torch.inference_mode():
        wanted = model(x)
        with torch.autocast("cpu", torch.bfloat16):
            assert relative_error(model(x), wanted) < 0.05  # a bfloat16 step is 1/256
        assert relative_error(model.bfloat16()(x.bfloat16()), wanted) < 0.1


@pytest.mark.parametrize("name", SMALLEST)
def test_counters_agree(name: str) -> None:
    """fvcore, torch's counter (also on the meta device) and the layers' own shapes give one number of MACs."""
    fvcore = pytest.importorskip("fvcore.nn")
    x = torch.zeros(1, 3, 64, 96)
    model = timm.create_model(name).eval()
    macs = 0

    def count(layer: nn.Module, _: Any, y: Tensor) -> None:
        nonlocal macs
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        positions = y.numel() // layer.weight.shape[0]
        macs += positions * layer.weight.numel()

    handles = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    with torch.inference_mode():
        model(x)
    for handle in handles:
        handle.remove()
    counted = fvcore.FlopCountAnalysis(model, x).unsupported_ops_warnings(False).by_operator()
    assert counted["conv"] + counted["linear"] == macs
    for net, inputs in ((model, x), (on_meta(name), x.to("meta"))):
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            net(inputs)
        assert counter.get_total_flops() == 2 * macs
