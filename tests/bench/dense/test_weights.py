"""Whole checkpoints in the released shape: loaded strictly, refused when of another model; and the deploy form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.golden_tools import manifest

pytest.importorskip("torchvision")

from bench.cli import BadInput
from bench.dense.backbones import build_backbone
from bench.dense.build import build_dense
from bench.dense.weights import deploy_dense, load_backbone, load_dense, read_checkpoint
from bench.tasks import HEADS, task_of

SMALL = ("overlock_xt", "unireplknet_a", "moganet_xt", "convnext_t")


def random_state(model: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """Plausible weights: every entry differs from a fresh model's; variances are positive."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, value in model.state_dict().items():
        if value.dtype == torch.long:
            state[key] = torch.tensor(7)
        else:
            noise = torch.rand(value.shape, generator=generator)
            bound = (3 / max(value[0].numel() if value.dim() > 1 else 1, 1)) ** 0.5
            state[key] = noise + 0.5 if value.dim() <= 1 or "var" in key else (noise * 2 - 1) * bound
    return state


def released(path: Path, state: dict[str, Tensor]) -> Path:
    """A file as the released ones are: numpy scalars in `meta`."""
    meta = {"epoch": np.int64(12), "lr": np.float64(1e-4), "best": np.float32(0.5), "CLASSES": ("a", "b"), "time": "x"}
    torch.save({"meta": meta, "state_dict": state}, path)
    return path


@pytest.mark.parametrize("name", SMALL)
def test_released_segmentation_checkpoint(tmp_path: Path, name: str) -> None:
    model = build_dense(name, "upernet", "train")
    state = random_state(model)
    load_dense(model, read_checkpoint(released(tmp_path / "model.pth", state)), "model.pth")
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_released_names_of_whole_detection_checkpoints() -> None:
    for name, head, reference in (("overlock_t", "maskrcnn", "head_maskrcnn"), ("overlock_s", "maskrcnn", None)):
        with torch.device("meta"):
            state = build_dense(name, head, "train").state_dict()
        shapes = {key: tuple(value.shape) for key, value in state.items()}
        backbone = manifest(f"{name}.det")
        assert {k.removeprefix("backbone."): v for k, v in shapes.items() if k.startswith("backbone.")} == backbone
        if reference is not None:
            assert {k: v for k, v in shapes.items() if not k.startswith("backbone.")} == manifest(reference)


@pytest.mark.parametrize("name", ["overlock_t", "overlock_s"])
def test_released_names_of_whole_segmentation_checkpoints(name: str) -> None:
    with torch.device("meta"):
        state = build_dense(name, "upernet", "train").state_dict()
    backbone = {k.removeprefix("backbone."): tuple(v.shape) for k, v in state.items() if k.startswith("backbone.")}
    assert backbone == manifest(f"{name}.seg")


@pytest.mark.parametrize("name", ["unireplknet_t", "moganet_b"])
def test_dense_backbones_have_the_classifier_s_names(name: str) -> None:
    """Released dense backbones are the classifier without its head; UniRepLKNet's gain `norm0..3` for `norm`."""
    with torch.device("meta"):
        shapes = {k: tuple(v.shape) for k, v in build_backbone(name, "detection", "train").state_dict().items()}
    want = manifest({"unireplknet_t": "unireplknet_t", "moganet_b": "moganet_base"}[name])
    want = {k: v for k, v in want.items() if not k.startswith(("head.", "norm."))}
    extra = {k for k in shapes if k not in want}
    assert {k: v for k, v in shapes.items() if k in want} == want
    assert extra == ({f"norm{i}.{leaf}" for i in range(4) for leaf in ("weight", "bias")} if "uni" in name else set())


def test_released_convnext_names() -> None:
    model = build_dense("convnext_t", "maskrcnn")
    state = random_state(model)
    renamed = {}
    for key, value in state.items():
        for ours, theirs in (
            (".stem.", ".downsample_layers.0."),
            (".blocks.", "."),
            (".conv_dw.", ".dwconv."),
            (".mlp.fc", ".pwconv"),
        ):
            key = key.replace(ours, theirs)
        if ".downsample." in key:
            stage = key.split(".")[2]
            key = key.replace(f".stages.{stage}.downsample.", f".downsample_layers.{stage}.")
        renamed[key] = value
    assert "backbone.downsample_layers.3.1.weight" in renamed
    assert "backbone.stages.2.8.pwconv1.weight" in renamed
    for names in (renamed, state):
        load_dense(build_dense("convnext_t", "maskrcnn"), names, "file")
    load_dense(model, renamed, "file")
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("task", ["segmentation", "detection"])
@pytest.mark.parametrize("name", [*SMALL, "resnet18"])
def test_a_classifier_s_weights_start_a_backbone(name: str, task: str) -> None:
    from bench.loading import create, resolve

    entry = resolve(name)
    state = random_state(create(entry, **entry.family.structure.get("train", {})))
    backbone = build_backbone(name, task, "train")
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    load_backbone(backbone, state, "file")
    after = backbone.state_dict()
    added = {key for key in after if torch.equal(after[key], before[key]) and after[key].numel() > 1}
    expected = {"overlock": ("extra_norm.", "h_proj."), "unireplknet": "norm", "convnext": "norm"}
    assert all(key.startswith(expected[name.partition("_")[0]]) for key in added), added
    del state[next(key for key in state if key in after)]
    with pytest.raises(BadInput, match="no weights of this backbone: 1 missing"):
        load_backbone(backbone, state, "file")


def test_prefixes_and_containers(tmp_path: Path) -> None:
    weight = {"a.weight": torch.ones(2)}
    for i, content in enumerate(
        (
            weight,
            {"module.a.weight": torch.ones(2)},
            {"model": weight, "epoch": 3},
            {"state_dict": {"a.weight": torch.zeros(2)}, "state_dict_ema": weight},
        )
    ):
        torch.save(content, tmp_path / f"{i}.pth")
        (found,) = read_checkpoint(tmp_path / f"{i}.pth").items()
        assert found[0] == "a.weight"
        assert found[1].tolist() == [1, 1]


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="there is no file"):
        read_checkpoint(tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(BadInput, match="cannot read"):
        read_checkpoint(tmp_path / "text.pth")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    with pytest.raises(BadInput, match="holds no weights"):
        read_checkpoint(tmp_path / "empty.pth")
    torch.save({"state_dict": {"a": torch.ones(1)}, "meta": {"run": Path("/")}}, tmp_path / "object.pth")
    with pytest.raises(BadInput, match="cannot read"):
        read_checkpoint(tmp_path / "object.pth")


def test_a_checkpoint_of_another_model_or_head_is_refused_and_changes_nothing() -> None:
    model = build_dense("moganet_xt", "maskrcnn")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for other in (build_dense("moganet_t", "maskrcnn"), build_dense("moganet_xt", "cascade_2fc")):
        with pytest.raises(BadInput, match=r"no checkpoint of this model and head: .*(missing|shape)"):
            load_dense(model, other.state_dict(), "other.pth")
    state = dict(before)
    del state["rpn_head.rpn_cls.bias"]
    with pytest.raises(BadInput, match=r"1 missing \(rpn_head.rpn_cls.bias\)"):
        load_dense(model, state, "cut.pth")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", SMALL)
@torch.inference_mode()
def test_deploy_form_gives_the_same_logits(name: str) -> None:
    torch.manual_seed(0)
    model = build_dense(name, "upernet", "train")
    model.load_state_dict(random_state(model))
    model = model.double().eval()
    x = torch.randn(1, 3, 96, 128, dtype=torch.float64)
    want = model(x)
    deployed = deploy_dense(model)
    assert ((deployed(x) - want).abs().max() / want.abs().max()).item() < 1e-10
    assert torch.equal(model(x), want)  # the given model is untouched
    assert not any("bn" in key for key in deployed.decode_head.state_dict())


def test_every_head_has_a_task() -> None:
    assert {task_of(head) for heads in HEADS.values() for head in heads} == set(HEADS)
    with pytest.raises(ValueError, match="unknown head"):
        task_of("yolo")


def test_backbones_of_timm_and_unknown_ones() -> None:
    assert build_backbone("resnet18", "segmentation").feature_info.channels() == [64, 128, 256, 512]
    with pytest.raises(BadInput, match="vit_tiny_patch16_224 gives"):
        build_backbone("vit_tiny_patch16_224", "segmentation")
    with pytest.raises(BadInput, match="unknown model 'overlok_t'"):
        build_backbone("overlok_t", "segmentation")
