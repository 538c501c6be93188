"""Reference outputs and the weights and inputs that go with them (`tests/golden/`).

`fill(model, "unireplknet_t")` gives `model` the weights that the reference values were computed with;
`image(seed, shape)` gives the input.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from tests.golden.golden_state import image as _image
from tests.golden.golden_state import tensor_for

GOLDEN = Path(__file__).parent / "golden"
Model = TypeVar("Model", bound=nn.Module)


def golden(name: str) -> dict[str, np.ndarray]:
    """The arrays of `tests/golden/<name>.npz`."""
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return dict(arrays)


def manifest(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the released state dict `name`."""
    return {key: tuple(shape) for key, shape in json.loads((GOLDEN / "manifests" / f"{name}.json").read_text()).items()}


def image(seed: int, shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    """The seeded input of `shape` (B, 3, H, W)."""
    return torch.from_numpy(_image(seed, shape)).to(dtype)


def fill(model: Model, manifest_name: str | None = None) -> Model:
    """Load the deterministic weights into `model`, strictly: names and shapes of the manifest, or the model's own.

    Works in the dtype and on the device that the model has.
    """
    shapes = manifest(manifest_name) if manifest_name else {k: tuple(v.shape) for k, v in model.state_dict().items()}
    model.load_state_dict({key: torch.from_numpy(tensor_for(key, shape)) for key, shape in shapes.items()}, strict=True)
    return model


def relative_error(got: Tensor, want: np.ndarray | Tensor) -> float:
    """Largest absolute difference over the largest absolute value of `want`, in float64."""
    reference = torch.as_tensor(want).double()
    assert got.shape == reference.shape, f"shape {tuple(got.shape)} where {tuple(reference.shape)} is expected"
    return ((got.detach().double().cpu() - reference).abs().max() / reference.abs().max()).item()
