"""Checkpoints in every released format, made from the released names and shapes; files that must be refused."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import baselines  # noqa: F401
import overlock
from overlock.checkpoints.loading import load_checkpoint, load_state
from overlock.checkpoints.reading import plain_names, read_checkpoint
from tests.golden.golden_state import tensor_for
from tests.golden_tools import fill, manifest

State = dict[str, Tensor]
RELEASED = {
    "overlock_xt": "overlock_xt",
    "unireplknet_a": "unireplknet_a",
    "moganet_xt": "moganet_xtiny",
}


def released(name: str) -> State:
    """A state dict of released names and shapes."""
    return {key: torch.from_numpy(tensor_for(key, shape)) for key, shape in manifest(name).items()}


def zeros(state: State) -> State:
    return {key: torch.zeros_like(value) for key, value in state.items()}


class Arbitrary:
    """What no checkpoint may make a reader import."""


FORMATS: dict[str, Callable[[State, Path], None]] = {
    "flat": lambda s, p: torch.save(s, p),
    "model": lambda s, p: torch.save({"model": s, "epoch": 3}, p),
    "state_dict": lambda s, p: torch.save({"state_dict": s, "arch": "x", "metric": np.float64(0.5)}, p),
    "arguments": lambda s, p: torch.save({"state_dict": s, "args": argparse.Namespace(lr=0.1)}, p),
    "averaged": lambda s, p: torch.save({"state_dict": zeros(s), "state_dict_ema": s}, p),
    "model_ema": lambda s, p: torch.save({"model": zeros(s), "model_ema": s}, p),
    "module.": lambda s, p: torch.save({"state_dict": {f"module.{k}": v for k, v in s.items()}}, p),
    "old torch": lambda s, p: torch.save(s, p, _use_new_zipfile_serialization=False),
    "half": lambda s, p: torch.save(s, p),
    "safetensors": lambda s, p: save_file(s, p),
}


@pytest.mark.parametrize("style", FORMATS)
def test_formats(style: str, tmp_path: Path) -> None:
    state = released(RELEASED["unireplknet_a"])
    path = tmp_path / ("weights.safetensors" if style == "safetensors" else "weights.pth")
    FORMATS[style](state, path)
    got = read_checkpoint(path)
    assert got.keys() == state.keys()
    assert all(torch.equal(got[key], state[key]) for key in state)


@pytest.mark.parametrize("name", RELEASED)
def test_loads_what_is_released(name: str, tmp_path: Path) -> None:
    path, state = tmp_path / "weights.pth", released(RELEASED[name])
    torch.save(state, path)
    model = timm.create_model(name)
    load_checkpoint(model, path)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_a_file_of_half_precision_fills_a_model_of_full_precision(tmp_path: Path) -> None:
    state = {key: value.half() for key, value in nn.Linear(3, 2).state_dict().items()}
    torch.save(state, tmp_path / "w.pth")
    model = nn.Linear(3, 2)
    load_checkpoint(model, tmp_path / "w.pth")
    assert model.weight.dtype == torch.float32
    assert torch.equal(model.weight.detach(), state["weight"].float())


def test_convnext_under_its_authors_names(tmp_path: Path) -> None:
    model, other = timm.create_model("convnext_atto"), timm.create_model("convnext_atto")
    names = (
        (r"^stem\.", "downsample_layers.0."),
        (r"^stages\.(\d)\.downsample", r"downsample_layers.\1"),
        (r"\.blocks\.", "."),
        (r"conv_dw", "dwconv"),
        (r"mlp\.fc", "pwconv"),
        (r"^head\.norm", "norm"),
        (r"^head\.fc", "head"),
    )
    state = {}
    for key, value in model.state_dict().items():
        for pattern, replacement in names:
            key = re.sub(pattern, replacement, key)
        state[key] = value[:, :, 0, 0] if "pwconv" in key and value.dim() == 4 else value
    assert not state.keys() & {k for k in model.state_dict() if k.startswith("st") and "gamma" not in k}
    torch.save({"model": state}, tmp_path / "w.pth")
    load_checkpoint(other, tmp_path / "w.pth")
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in model.state_dict().items())


def test_the_auxiliary_head_may_be_in_the_file_or_in_the_model_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = released("overlock_xt")
    without = {k: v for k, v in state.items() if not k.startswith("aux_head.")}
    model, with_head = (fill(timm.create_model("overlock_xt", aux_head=aux)) for aux in (False, True))
    own = {key: value.clone() for key, value in with_head.state_dict().items() if key.startswith("aux_head.")}
    assert len(own) == 7
    torch.save(state, tmp_path / "with.pth")
    torch.save(without, tmp_path / "without.pth")
    for path in (tmp_path / "with.pth", tmp_path / "without.pth"):
        load_checkpoint(model, path)
        assert all(torch.equal(value, without[key]) for key, value in model.state_dict().items())
    load_checkpoint(with_head, tmp_path / "without.pth")
    assert "has no auxiliary head: the model keeps the one that it has" in caplog.text
    assert all(torch.equal(value, {**without, **own}[key]) for key, value in with_head.state_dict().items())
    load_checkpoint(with_head, tmp_path / "with.pth")
    assert all(torch.equal(value, state[key]) for key, value in with_head.state_dict().items())
    first = next(iter(own))
    part = {**without, first: own[first]}
    with pytest.raises(ValueError, match=r"6 missing \(aux_head\."):
        with_head.load_state_dict(part)


def spoiled(kind: str, state: State) -> Any:
    keys = list(state)
    if kind == "missing":
        return {key: value for key, value in state.items() if key != keys[3]}
    if kind == "unexpected":
        return state | {"extra.weight": torch.zeros(1)}
    if kind == "of another shape":
        return state | {keys[3]: torch.zeros(7)}
    return released("overlock_t")


@pytest.mark.parametrize("kind", ["missing", "unexpected", "of another shape", "of another model"])
def test_a_misfit_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    state, path = released("unireplknet_a"), tmp_path / "misfit.pth"
    torch.save(spoiled(kind, state), path)
    model = timm.create_model("unireplknet_a")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    named = {"unexpected": "extra.weight", "of another model": "patch_embed1"}.get(kind, list(state)[3])
    with pytest.raises(ValueError, match=re.escape(named)) as error:
        load_checkpoint(model, path)
    assert str(path) in str(error.value)
    assert len(str(error.value)) < 900
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("content", ["empty", "garbage", "cut short", "no weights", "a list", "code"])
def test_an_unreadable_file_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    if content in ("no weights", "a list", "code"):
        value: Any = {"no weights": {"epoch": 1}, "a list": [1, 2], "code": {"model": Arbitrary()}}[content]
        torch.save(value, path)
    else:
        torch.save(nn.Linear(64, 64).state_dict(), path)
        whole = path.read_bytes()
        path.write_bytes(
            {"empty": b"", "garbage": b"no checkpoint" * 9, "cut short": whole[: len(whole) // 2]}[content]
        )
    with pytest.raises(ValueError, match=re.escape(str(path))):
        read_checkpoint(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        read_checkpoint(tmp_path / "nowhere.pth")


@pytest.fixture(scope="module")
def small() -> State:
    """The state of the smallest network here, each number another than a fresh network's."""
    state = timm.create_model("moganet_xt").state_dict()
    return {key: value + 1 for key, value in state.items()}


def in_model(model: nn.Module, state: State) -> bool:
    return all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


PREFIXES = ("module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module.")


@pytest.mark.parametrize("prefix", PREFIXES)
def test_wrapped_names_every_way_in(prefix: str, tmp_path: Path, small: State) -> None:
    """By our own loader, by `pretrained_cfg_overlay`, by `checkpoint_path`, and by `load_state_dict`."""
    wrapped = {prefix + key: value for key, value in small.items()}
    path = tmp_path / "w.pth"
    torch.save({"state_dict": wrapped, "n": 1}, path)
    assert read_checkpoint(path).keys() == small.keys()
    overlay = timm.create_model("moganet_xt", pretrained=True, pretrained_cfg_overlay={"file": str(path)})
    model = timm.create_model("moganet_xt")
    model.load_state_dict(wrapped)
    for made in (overlay, model, timm.create_model("moganet_xt", checkpoint_path=str(path))):
        assert in_model(made, small)


def test_a_part_that_was_compiled_and_an_average() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    state = {key: value + 1 for key, value in model.state_dict().items()}
    load_state(model, {key.replace("1.", "1._orig_mod."): value for key, value in state.items()}, "file")
    assert in_model(model, state)
    model[0] = torch.compile(model[0])  # type: ignore[assignment]
    load_state(model, {key: value + 1 for key, value in state.items()}, "file")
    assert torch.equal(model[1].bias, state["1.bias"] + 1)
    averaged = torch.optim.swa_utils.AveragedModel(nn.Linear(2, 2)).state_dict()
    assert plain_names(averaged) == {"module.weight": "weight", "module.bias": "bias"}
    with pytest.raises(ValueError, match="differ only in"):
        plain_names(["a._orig_mod.b", "a.b"])


def one_sided(kind: str, value: Tensor) -> Tensor:
    return {
        "meta": lambda: value.to("meta"),
        "sparse": lambda: value.to_sparse(),
        "complex": lambda: value.to(torch.complex64),
        "integers": lambda: value.to(torch.int8),
        "quantised": lambda: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8),
        "misshapen": lambda: value[:1],
    }[kind]()


SAID = {"meta": "on the meta device", "complex": "complex64", "integers": "int8", "quantised": "qint8"}


@pytest.mark.filterwarnings("ignore:.*quantize.*")
@pytest.mark.parametrize("kind", ["meta", "sparse", "complex", "integers", "quantised", "misshapen"])
@pytest.mark.parametrize("strict", [True, False])
def test_a_tensor_that_cannot_be_copied_loads_nothing(kind: str, strict: bool, small: State) -> None:
    """The last tensor of the model is the one that is wrong: all others would have been copied before it."""
    model = timm.create_model("moganet_xt")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = {**small, "head.bias": one_sided(kind, small["head.bias"])}
    with pytest.raises(RuntimeError, match=rf"head\.bias is .*{SAID.get(kind, '' if kind == 'misshapen' else kind)}"):
        model.load_state_dict(state, strict=strict)
    assert in_model(model, before)


NOT_FINITE = {
    "NaN": lambda value: value.index_fill(0, torch.tensor([0]), torch.nan),
    "infinite": lambda value: value.index_fill(0, torch.tensor([1]), -torch.inf),
    "too large": lambda value: value.double() + 1e300,
    "NaN in half precision": lambda value: value.half() * torch.nan,
}


@pytest.mark.parametrize("kind", NOT_FINITE)
@pytest.mark.parametrize("strict", [True, False])
def test_weights_that_are_not_finite_are_refused_by_name(kind: str, strict: bool, small: State) -> None:
    """As they are, or in the model's dtype; nothing is loaded."""
    model = timm.create_model("moganet_xt")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = {**small, "head.bias": NOT_FINITE[kind](small["head.bias"])}
    with pytest.raises(ValueError, match=r"1 not finite \(head\.bias"):
        model.load_state_dict(state, strict=strict)
    assert in_model(model, before)


def test_weights_that_half_precision_cannot_hold_are_refused_by_a_model_of_it() -> None:
    model, state = nn.Linear(2, 2).half(), {"weight": torch.full((2, 2), 1e6), "bias": torch.zeros(2)}
    with pytest.raises(ValueError, match=r"1 not finite \(weight as float16\)"):
        load_state(model, state, "file")
    load_state(nn.Linear(2, 2).bfloat16(), state, "file")


def test_half_loaded_on_purpose(small: State) -> None:
    """Not strict: what is there is loaded, and what is missing and unexpected is told, as torch does."""
    model = timm.create_model("moganet_xt")
    keys = model.load_state_dict({"head.bias": small["head.bias"], "more": torch.ones(1)}, strict=False)
    assert "norm4.bias" in keys.missing_keys
    assert "head.bias" not in keys.missing_keys
    assert keys.unexpected_keys == ["more"]
    assert torch.equal(model.head.bias, small["head.bias"])


def test_another_number_of_classes(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    state = timm.create_model("overlock_xt", num_classes=7).state_dict()
    torch.save(state, path)
    with torch.device("meta"):
        model = timm.create_model("overlock_xt")
    with pytest.raises(ValueError, match=r"it has 7 classes and the model 1000: .*num_classes=7; of") as e:
        load_checkpoint(model, path)
    assert "\n" not in str(e.value)
    overlay = {"file": str(path), "num_classes": 7}
    made = timm.create_model("overlock_xt", True, pretrained_cfg_overlay=overlay, num_classes=3)
    own = made.state_dict()
    assert all(torch.equal(own[key], value) for key, value in state.items() if not key.startswith("head.4."))


@pytest.mark.parametrize("name", ["overlock_xt", "unireplknet_a"])
def test_the_file_of_a_deployed_model_says_so(name: str) -> None:
    model = timm.create_model(name)
    for deployed in (overlock.deploy(model), timm.create_model(name, deploy=True)):
        with pytest.raises(ValueError, match="it is of a deployed model") as error:
            load_state(model, deployed.state_dict(), "file")
        assert "\n" not in str(error.value)
        with pytest.raises(ValueError, match="it is of the training form"):
            load_state(deployed, model.state_dict(), "file")
    deployed = overlock.deploy(model)
    load_state(deployed, {key: value + 1 for key, value in deployed.state_dict().items()}, "file")


def test_the_overlay_is_fitted_before_classes_are_replaced(tmp_path: Path, small: State) -> None:
    """timm loads loosely where the number of classes differs: another network's file must be refused all the same."""
    torch.save(released("unireplknet_a"), tmp_path / "w.pth")
    save_file(small, tmp_path / "model.safetensors")
    for file in (tmp_path / "w.pth", tmp_path / "model.safetensors", tmp_path):
        make = lambda file=file: timm.create_model(  # noqa: E731
            "moganet_xt", pretrained=True, num_classes=5, in_chans=1, pretrained_cfg_overlay={"file": str(file)}
        )
        if file.suffix == ".pth":
            with pytest.raises(ValueError, match="does not fit MogaNet"):
                make()
        else:
            assert torch.equal(make().state_dict()["norm4.weight"], small["norm4.weight"])


def test_the_configuration_of_a_hub_names_the_weights(tmp_path: Path, small: State) -> None:
    """timm hands the configuration of a model on the hub over as `pretrained_cfg`: not the released file is loaded."""
    save_file(small, tmp_path / "model.safetensors")
    cfg = {"source": "local-dir", "file": str(tmp_path), "num_classes": 1000, "first_conv": "patch_embed1.projection.0"}
    assert in_model(timm.create_model("moganet_xt", pretrained=True, pretrained_cfg=cfg), small)


WRONG = {
    "folder": (None, "is a folder"),
    "empty.pth": (b"", "it is empty"),
    "text.pth": (b"hello, world", "it begins with b'hello, wo'"),
    "half.safetensors": (b"\xff\0\0\0\0\0\0\0{", "cannot read weights"),
    "pickle.pth": (b"\x80\x02garbage", "cannot read weights"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_checkpoint_is_said_in_a_line(name: str, tmp_path: Path) -> None:
    content, said = WRONG[name]
    path = tmp_path / name
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(said)) as error:
        read_checkpoint(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_is_read_as_what_it_is_whatever_its_name(tmp_path: Path) -> None:
    state = {"a": torch.ones(2)}
    save_file(state, tmp_path / "w.pth")
    assert torch.equal(read_checkpoint(tmp_path / "w.pth")["a"], state["a"])
    torch.save({"model": Arbitrary()}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"it holds \S*Arbitrary, and only tensors .*save model.state_dict"):
        read_checkpoint(tmp_path / "w.pth")
