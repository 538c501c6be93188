"""Which released file a model is evaluated with at a resolution."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import timm
import torch

from bench.accuracy.networks import FINE_TUNED, RANDOM, RELEASED, load, source, trained_at
from bench.models import MODELS
from tests.golden.golden_state import tensor_for

AT_384 = {"convnext_b": "convnext_base_1k_384.pth", "convnext_l": "convnext_large_1k_384.pth"}
"""The only models here whose authors released another file, trained on ImageNet-1K alone, for another resolution."""


@pytest.mark.parametrize("size", [(224, 224), (256, 256), (288, 288), (384, 384), (384, 512)])
@pytest.mark.parametrize("name", MODELS)
def test_only_convnext_b_and_l_at_384_have_weights_of_their_own(name: str, size: tuple[int, int]) -> None:
    entry = MODELS[name]
    own = size == (384, 384) and name in AT_384
    assert source(entry, RELEASED, size) == (f"{FINE_TUNED}384" if own else RELEASED)
    assert source(entry, "file.pth", size) == "file.pth"
    assert source(entry, RANDOM, size) == RANDOM
    if own:
        release = entry.family.fine_tuned(name, 384)
        assert release is not None
        assert release.file == AT_384[name]
        assert trained_at(entry, f"{FINE_TUNED}384") == 384
    assert trained_at(entry, RELEASED) == entry.resolution
    assert trained_at(entry, "file.pth") is None


def facebooks(key: str) -> str:
    """timm's name of a ConvNeXt's tensor -> the one in its authors' files."""
    for pattern, replacement in (
        (r"^stem\.(\d)", r"downsample_layers.0.\1"),
        (r"^stages\.(\d)\.downsample", r"downsample_layers.\1"),
        (r"^stages\.(\d)\.blocks", r"stages.\1"),
        (r"\.conv_dw\.", ".dwconv."),
        (r"\.mlp\.fc(\d)", r".pwconv\1"),
        (r"^head\.norm", "norm"),
        (r"^head\.fc", "head"),
    ):
        key = re.sub(pattern, replacement, key)
    return key


def test_the_fine_tuned_file_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of ConvNeXt-T's shapes under its authors' names stands for the one of ConvNeXt-B, which is 350 MB."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("OVERLOCK_OFFLINE", "1")
    release = MODELS["convnext_b"].family.fine_tuned("convnext_b", 384)
    assert release is not None
    own = timm.create_model("convnext_tiny").state_dict()
    state = {key: torch.from_numpy(tensor_for(key, tuple(value.shape))) for key, value in own.items()}
    release.path.parent.mkdir(parents=True)
    torch.save({"model": {facebooks(key): value for key, value in state.items()}}, release.path)
    monkeypatch.setattr("baselines.convnext.fine_tuned", lambda name, resolution: release)
    model, label = load(MODELS["convnext_t"], "deploy", f"{FINE_TUNED}384")
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert len(label) == 64
