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
import overlock  # noqa: F401
from overlock.checkpoints.loading import load_checkpoint, read_checkpoint
from tests.golden.golden_state import tensor_for
from tests.golden_tools import manifest

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


def test_a_model_without_auxiliary_head_takes_a_file_with_it(tmp_path: Path) -> None:
    state = released("overlock_xt")
    torch.save(state, tmp_path / "w.pth")
    with torch.device("meta"):
        model, with_head = (timm.create_model("overlock_xt", aux_head=aux) for aux in (False, True))
    load_checkpoint(model, tmp_path / "w.pth")
    torch.save({k: v for k, v in state.items() if not k.startswith("aux_head.")}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"7 missing \(aux_head\."):
        load_checkpoint(with_head, tmp_path / "w.pth")


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
