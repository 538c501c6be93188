"""ContMix, OverLoCK's context-mixing dynamic convolution: one name, several implementations.

`reference` is the definition, `tiled` runs anywhere, `native` is a C kernel for CPUs.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from overlock.contmix import reference, tiled
from overlock.contmix.cost import contmix_macs
from overlock.contmix.op import BACKENDS, choose_backend
from overlock.contmix.small_map import enlarged_size
from overlock.tracing import is_plain, under_autocast

__all__ = [
    "BACKENDS",
    "choose_backend",
    "contmix",
    "contmix_macs",
    "contmix_merged",
    "enlarged_size",
    "merge_biases",
]

merge_biases = tiled.merge_biases


def _same_dtype(*tensors: Tensor) -> list[Any]:
    """Under autocast its dtype, else that of the values; float64 stays, as with PyTorch's own operators."""
    device, dtype = tensors[2].device.type, tensors[2].dtype
    if dtype != torch.float64 and under_autocast(device):
        dtype = torch.get_autocast_dtype(device)
    return [x.to(dtype) for x in tensors]


def contmix(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    rpb1: Tensor,
    rpb2: Tensor,
    scale: float,
    backend: str = "auto",
) -> Tensor:
    """Mix each position's surroundings by two kernels made from its affinity to the region centres (section 3.3).

    Args:
        query: (B, Cq, H, W), channels as (G, Cq / G).
        key: (B, Cq, r, r), the R = r*r region centres.
        value: (B, C, H, W), channels as (2, G, C / 2 / G): the first half for the small kernel, the second for KxK.
        proj_weight: (T, R), affinities to kernel taps, T = k*k + K*K; shared by the heads.
        proj_bias: (T,)
        rpb1: (G, 2k-1, 2k-1), relative-position bias of the small kernel (k = 5 in OverLoCK).
        rpb2: (G, 2K-1, 2K-1), that of the large one.
        scale: factor of the affinities.
        backend: `auto`, or one of `BACKENDS` by name.

    Returns:
        (B, C, H, W), channels_last in memory.

    Raises:
        ValueError: if shapes don't fit each other, the map is smaller than K (see `enlarged_size`), or the backend
            cannot run here.
    """
    _check_shapes(query, key, value, proj_weight, proj_bias, rpb1, rpb2)
    args = (*_same_dtype(query, key, value, proj_weight, proj_bias, rpb1, rpb2), scale)
    if is_plain():
        return reference.contmix(*args)
    if backend == "reference" and torch.is_grad_enabled() and any(x.requires_grad for x in args[:-1]):
        return reference.contmix(*args)  # differentiated by autograd, step by step
    out: Tensor = torch.ops.overlock.contmix(*args, backend)
    return out


def contmix_merged(
    query: Tensor, key: Tensor, value: Tensor, proj_weight: Tensor, bias1: Tensor, bias2: Tensor, scale: float
) -> Tensor:
    """`contmix` for inference, its three biases merged beforehand by `merge_biases` for this map's size.

    Raises:
        ValueError: if the biases are of another number of queries. Those of a turned map (20x30 for 30x20) are of as
            many and can't be told apart.
    """
    height, width = value.shape[-2:]
    queries = {tiled.tiled_queries(height, width, math.isqrt(bias.shape[-1])) for bias in (bias1, bias2)}
    if {bias1.shape[1], bias2.shape[1]} != queries:
        raise ValueError(
            f"biases merged for {bias1.shape[1]} and {bias2.shape[1]} queries do not fit a "
            f"{height}x{width} map: merge them for its size"
        )
    args = (*_same_dtype(query, key, value, proj_weight, bias1, bias2), scale)
    if is_plain():
        return tiled.forward_merged(*args)
    out: Tensor = torch.ops.overlock.contmix_merged(*args)
    return out


def _check_shapes(
    query: Tensor, key: Tensor, value: Tensor, proj_weight: Tensor, proj_bias: Tensor, rpb1: Tensor, rpb2: Tensor
) -> None:
    heads, large = rpb1.shape[0], (rpb2.shape[-1] + 1) // 2
    taps = ((rpb1.shape[-1] + 1) // 2) ** 2 + large**2
    if min(value.shape[-2:]) < large:
        raise ValueError(
            f"a {value.shape[-2]}x{value.shape[-1]} map is smaller than the {large}x{large} kernel: enlarge it"
        )
    if query.shape[1] % heads or value.shape[1] % (2 * heads) or query.shape[1] != key.shape[1]:
        raise ValueError(
            f"{query.shape[1]} query, {key.shape[1]} key and {value.shape[1]} value channels "
            f"do not split into {heads} heads"
        )
    if tuple(proj_weight.shape) != (taps, key.shape[2] * key.shape[3]):
        raise ValueError(
            f"the projection is {tuple(proj_weight.shape)}, "
            f"the kernels and regions need {(taps, key.shape[2] * key.shape[3])}"
        )
    if value.shape[0] == 0:
        raise ValueError("an empty batch: ContMix needs at least one image")
    if query.shape[0] != value.shape[0] or key.shape[0] != value.shape[0] or query.shape[2:] != value.shape[2:]:
        shapes = ", ".join(f"{n} {tuple(x.shape)}" for n, x in (("query", query), ("key", key), ("value", value)))
        raise ValueError(f"query and key must have the values' batch, and query their map: {shapes}")
    if rpb2.shape[0] != heads or proj_bias.shape[0] != taps:
        raise ValueError(
            f"proj_bias has {proj_bias.shape[0]} of {taps} taps, rpb1 and rpb2 have {heads} and {rpb2.shape[0]} heads"
        )
