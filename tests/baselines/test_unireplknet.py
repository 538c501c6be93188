"""UniRepLKNet: parity with the released models, the state dicts' contract, the deploy form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import baselines
from baselines.unireplknet import BRANCHES, GRN, VARIANTS, UniRepLKNetBlock
from overlock.layers import DilatedReparam
from tests.golden_tools import fill, golden, image, manifest, relative_error


def on_meta(name: str, **kwargs: Any) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name, **kwargs)


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


@pytest.fixture(scope="module", params=["unireplknet_a", "unireplknet_t"])
def released(request: pytest.FixtureRequest) -> tuple[str, nn.Module]:
    name: str = request.param
    return name, fill(timm.create_model(name), name).eval().double()


@pytest.mark.parametrize(
    ("key", "shape"), [("224", (2, 3, 224, 224)), ("160x192", (1, 3, 160, 192)), ("384", (1, 3, 384, 384))]
)
def test_parity(released: tuple[str, nn.Module], key: str, shape: tuple[int, ...]) -> None:
    name, model = released
    wanted = golden(name)[f"logits_{key}"]
    with torch.inference_mode():
        logits = model(image(0, shape))
    assert relative_error(logits, wanted) < 1e-9
    if len(logits) == 2:  # the images' logits are near each other: check what sets them apart
        assert relative_error(logits[0] - logits[1], wanted[0] - wanted[1]) < 1e-9


@pytest.mark.parametrize("name", VARIANTS)
def test_state_dict_contract(name: str) -> None:
    assert list(shapes(on_meta(name)).items()) == list(manifest(name).items())
    assert list(shapes(on_meta(name, deploy=True)).items()) == list(manifest(f"{name}.deploy").items())
    assert list(shapes(on_meta(name).to_deploy()).items()) == list(manifest(f"{name}.deploy").items())


@pytest.mark.parametrize("name", VARIANTS)
def test_pyramid_state_dict_contract(name: str) -> None:
    for deploy, source in ((False, name), (True, f"{name}.deploy")):
        net = on_meta(name, features_only=True, deploy=deploy)
        backbone = {k: v for k, v in manifest(source).items() if not k.startswith(("norm.", "head."))}
        norms = {f"norm{i}.{p}": (c,) for i, c in enumerate(VARIANTS[name]["widths"]) for p in ("weight", "bias")}
        assert shapes(net) == backbone | norms


def test_pyramid_normalises_beside_the_path() -> None:
    model = fill(timm.create_model("unireplknet_a")).double().eval()
    net = timm.create_model("unireplknet_a", features_only=True).double().eval()
    net.load_state_dict({**net.state_dict(), **{k: v for k, v in model.state_dict().items() if k in net.state_dict()}})
    for i in range(4):
        fill(net.get_submodule(f"norm{i}"))
    raw: list[Tensor] = []
    for stage in model.stages:
        stage.register_forward_hook(lambda _m, _x, y: raw.append(y))
    x = image(7, (1, 3, 64, 96))
    with torch.inference_mode():
        model.forward_features(x)
        maps = net(x)
    assert len(maps) == 4
    for i, (y, got) in enumerate(zip(raw, maps, strict=True)):
        norm = net.get_submodule(f"norm{i}")
        mean, var = y.mean(1, keepdim=True), y.var(1, unbiased=False, keepdim=True)
        wanted = (y - mean) / (var + 1e-6).sqrt() * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)
        assert relative_error(got, wanted) < 1e-12


BIG = ("unireplknet_b", "unireplknet_l", "unireplknet_xl")
SHALLOW = {"depths": (1, 1, 2, 1), "kernel_sizes": ((3,), (13,), (13, 3), (13,))}  # one block of each kind
SIZES = {torch.float32: [(32, 32), (72, 72), (160, 192)], torch.float64: [(32, 32), (72, 72)]}
BOUND = {torch.float32: 1e-5, torch.float64: 1e-10}


def check_deploy(model: nn.Module, dtype: torch.dtype) -> None:
    fill(model).eval().to(dtype)
    deployed = model.to_deploy()
    assert {p.dtype for p in deployed.parameters()} == {dtype}
    for size in SIZES[dtype]:
        x = image(0, (1, 3, *size), dtype)
        with torch.inference_mode():
            assert relative_error(deployed(x), model(x)) < BOUND[dtype]


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("name", VARIANTS)
def test_deploy_has_the_same_output(name: str, dtype: torch.dtype) -> None:
    check_deploy(timm.create_model(name, **(SHALLOW if name in BIG else {})), dtype)


@pytest.mark.slow
@pytest.mark.parametrize("name", BIG)
def test_deploy_of_a_big_model_whole(name: str) -> None:
    check_deploy(timm.create_model(name), torch.float32)


def test_deploy_leaves_the_original_untouched() -> None:
    model = fill(timm.create_model("unireplknet_a", drop_path_rate=0.2)).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    deployed = model.to_deploy()
    with torch.no_grad():
        for p in deployed.parameters():
            p.zero_()
    assert model.training
    assert not model.deploy
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_deploy_form_is_saved_loaded_and_refuses_training(tmp_path: Path) -> None:
    deployed = fill(timm.create_model("unireplknet_a")).to_deploy()
    torch.save(deployed.state_dict(), tmp_path / "deployed.pth")
    again = timm.create_model("unireplknet_a", deploy=True, checkpoint_path=str(tmp_path / "deployed.pth"))
    x = image(1, (1, 3, 64, 64), torch.float32)
    with torch.inference_mode():
        assert torch.equal(again(x), deployed(x))
        assert torch.equal(deployed.to_deploy()(x), deployed(x))
    for model in (deployed, again, timm.create_model("unireplknet_a", deploy=True, features_only=True)):
        assert not model.training
        assert not any(m.training for m in model.modules())
        assert model.eval() is model
        with pytest.raises(ValueError, match="inference only"):
            model.train()
    assert not any(isinstance(m, nn.BatchNorm2d) for m in deployed.modules())


def test_deploy_serves_the_pyramid() -> None:
    net = fill(timm.create_model("unireplknet_a", features_only=True)).double().eval()
    x = image(2, (1, 3, 72, 104))
    with torch.inference_mode():
        for got, wanted in zip(net.to_deploy()(x), net(x), strict=True):
            assert relative_error(got, wanted) < 1e-10


@pytest.mark.parametrize("kernel_size", [3, *BRANCHES])
def test_block_deploys_for_every_kernel_size(kernel_size: int) -> None:
    block = fill(UniRepLKNetBlock(16, kernel_size)).double().eval()
    x = torch.rand(2, 16, 9, 20, dtype=torch.float64) - 0.5
    with torch.inference_mode():
        assert relative_error(block.to_deploy()(x), block(x)) < 1e-12


def test_unknown_kernel_size() -> None:
    with pytest.raises(ValueError, match="5x5"):
        UniRepLKNetBlock(16, 5)


def test_branches_are_not_overlocks() -> None:
    kernels = {m.branches for m in on_meta("unireplknet_t").modules() if isinstance(m, DilatedReparam)}
    assert kernels == {((5, 1), (7, 2), (3, 3), (3, 4), (3, 5))}


def test_grn() -> None:
    grn = fill(GRN(6)).double()
    x = torch.rand(2, 5, 7, 6, dtype=torch.float64) - 0.5
    norm = (x * x).sum((1, 2), keepdim=True).sqrt()
    scale = norm / (norm.mean(-1, keepdim=True) + 1e-6)
    assert relative_error(grn(x), grn.gamma * (x * scale) + grn.beta + x) < 1e-12


@pytest.mark.parametrize("channels_last", [False, True])
def test_grn_gradient_at_zero_channels(channels_last: bool) -> None:
    grn = fill(GRN(6)).double()
    x = torch.rand(2, 6, 5, 7, dtype=torch.float64)
    x[:, 2] = 0
    x[1] = 0  # a whole image, too
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    x.requires_grad_()
    (grn(x.permute(0, 2, 3, 1)) ** 2).sum().backward()
    for gradient in (x.grad, grn.gamma.grad, grn.beta.grad):
        assert gradient is not None
        assert gradient.isfinite().all()


def test_second_stage_and_head_norm_have_their_epsilon() -> None:
    """Maps of no variance: LayerNorm's epsilon (1e-6) alone sets the scale."""
    model = timm.create_model("unireplknet_a").double().eval()
    small = torch.tensor([1e-3, -1e-3], dtype=torch.float64).repeat(160).view(1, 320, 1, 1)
    wanted = F.layer_norm(small.flatten(1), (320,), eps=1e-6)
    torch.testing.assert_close(model.forward_head(small, pre_logits=True), wanted)
    assert {m.eps for m in model.modules() if isinstance(m, nn.LayerNorm)} == {1e-6}


def test_all_variants_have_manifests() -> None:
    assert set(VARIANTS) == {name for name in baselines.MODELS if name.startswith("unireplknet")}
