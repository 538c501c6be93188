"""The released file of every baseline, and `pretrained=True` on a file made from its names and shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import baselines
from bench.models import family_of
from overlock.checkpoints.download import Release
from tests.golden.golden_state import tensor_for

PARTS = {
    "unireplknet_s": "unireplknet_s_in1k_224_acc83.91.pth",
    "unireplknet_b": "unireplknet_b_in22k_to_in1k_384_acc87.40.pth",
    "moganet_b": "moganet_base_sz224_8xbs128_ep300.pth.tar",
    "convnext_t": "timm/convnext_tiny.fb_in1k/resolve/main/pytorch_model.bin",
    "convnext_b": "timm/convnext_base.fb_in1k/resolve/main/model.safetensors",
}


def release(name: str) -> Release:
    file = family_of(name).release(name)
    assert file is not None
    return file


@pytest.mark.parametrize("name", baselines.MODELS)
def test_every_baseline_has_a_file(name: str) -> None:
    found = release(name)
    assert found.url.startswith("https://")
    assert found.url.endswith(PARTS.get(name, ""))
    assert found.file == found.url.rpartition("/")[2] or name.startswith("convnext")


def test_no_two_baselines_share_a_place_in_the_cache() -> None:
    assert len({release(name).file for name in baselines.MODELS}) == len(baselines.MODELS)


def place(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """A file of the model's names and shapes where its released one would lie, and what it holds."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("OVERLOCK_OFFLINE", "1")
    with torch.device("meta"):
        own = timm.create_model(name).state_dict()
    state = {key: torch.from_numpy(tensor_for(key, tuple(value.shape))) for key, value in own.items()}
    path = tmp_path / "made.pth"
    torch.save({"state_dict": state, "epoch": 300}, path)
    unknown = {"sha256": None, "size": None}
    found = release(name)
    made = type(found)(**{**vars(found), **unknown})
    made.path.parent.mkdir(parents=True)
    path.rename(made.path)
    monkeypatch.setattr(f"{family_of(name).network}.release", lambda asked: made)
    return state


@pytest.mark.parametrize("name", ["unireplknet_a", "moganet_xt", "convnext_t"])
def test_pretrained(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = place(name, tmp_path, monkeypatch)
    model = timm.create_model(name, pretrained=True)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert not model.pretrained_cfg.get("state_dict")


@pytest.mark.parametrize("kwargs", [{}, {"features_only": True}])
def test_pretrained_in_deploy_form(kwargs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place("unireplknet_a", tmp_path, monkeypatch)
    model = timm.create_model("unireplknet_a", pretrained=True, deploy=True, **kwargs)
    trained = timm.create_model("unireplknet_a", pretrained=True, **kwargs).eval()
    assert model.deploy
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        got, want = model(x), trained(x)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
