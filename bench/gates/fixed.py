"""Weights and images that are the same everywhere: drawn from each tensor's name and shape alone.

The bits come from numpy's SFC64, whose stream numpy promises to keep (NEP 19), not from torch's generator or from
initialisation: any version of the libraries gives the same values, bit for bit.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Floats = npt.NDArray[np.float32]


def uniform(name: str, shape: tuple[int, ...], low: float, high: float) -> Tensor:
    """float32 values in [low, high), which depend on `name` and `shape` alone."""
    count = math.prod(shape)
    key = int.from_bytes(hashlib.sha256(f"{name} {shape}".encode()).digest()[:16], "little")
    bits = np.random.SFC64(key).random_raw((count + 1) // 2).astype("<u8").view("<u4")[:count]
    values: Floats = (bits >> 8).astype(np.float32)  # 24 bits: exact in float32
    values *= np.float32((high - low) / 2**24)
    values += np.float32(low)
    return torch.from_numpy(values).reshape(shape)


def weights(blank: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Values for a state dict of which names, shapes and dtypes are given (the meta device will do).

    Signals keep their size, every branch matters, and no two channels are alike: kernels have the variance of 0.36 over
    their fan-in, scales of branches lie in 0.1 to 0.4, weights and running variances of norms about 1.
    """
    return {name: _value(name, tensor) for name, tensor in blank.items()}


def _value(name: str, tensor: Tensor) -> Tensor:
    shape, leaf = tuple(tensor.shape), name.rpartition(".")[2]
    if not tensor.dtype.is_floating_point:
        return torch.zeros(shape, dtype=tensor.dtype)
    fan_in = math.prod(shape[1:]) if len(shape) > 1 else 1
    if leaf == "running_var":
        low, high = 1.0, 4.0
    elif leaf in ("running_mean", "bias") or leaf.startswith("rpb"):
        low, high = -0.2, 0.2
    elif leaf in ("gamma", "beta", "scale", "sigma", "decompose") or leaf.startswith("layer_scale"):
        low, high = 0.1, 0.4
    elif fan_in > 1:
        high = 0.6 * math.sqrt(3 / fan_in)
        low = -high
    else:  # norm weights and scales of channels
        low, high = 0.5, 1.5
    return uniform(name, shape, low, high)


def images(batch: int, resolution: tuple[int, int]) -> Tensor:
    """Images (batch, 3, H, W) in [-2, 2), as normalised photographs are."""
    return uniform("images", (batch, 3, *resolution), -2.0, 2.0)


def signs(number: int, count: int) -> Tensor:
    """The `number`-th fixed direction: `count` values of -1 or 1, float64."""
    return torch.where(uniform(f"signs {number}", (count,), 0.0, 1.0) < 0.5, -1.0, 1.0).double()


def same(ours: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """The names whose tensors are not equal, bit for bit, or that only one of the two has."""
    names = dict.fromkeys([*given, *ours])
    return [n for n in names if n not in ours or n not in given or not torch.equal(ours[n], given[n])]
