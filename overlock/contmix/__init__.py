"""ContMix, OverLoCK's context-mixing dynamic convolution: one name, several implementations.

`reference` is the definition, `tiled` runs anywhere, `native` is a C kernel for CPUs, `fused` is made of Triton kernels
for GPUs (experimental). Exporters write `exported`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from overlock.contmix import exported, reference, tiled
from overlock.contmix.cost import contmix_macs
from overlock.contmix.inputs import Inputs, check
from overlock.contmix.op import BACKENDS, choose_backend
from overlock.contmix.running import BackendsSeen, note
from overlock.contmix.small_map import enlarged_size
from overlock.tracing import is_exporting, under_autocast

__all__ = [
    "BACKENDS",
    "BackendsSeen",
    "Inputs",
    "choose_backend",
    "contmix",
    "contmix_macs",
    "contmix_merged",
    "enlarged_size",
    "merge_biases",
]

merge_biases = tiled.merge_biases


def _dtype(value: Tensor) -> torch.dtype:
    """The dtype of autocast where it is on, else that of the values; float64 stays, as with PyTorch's own operators."""
    if value.dtype != torch.float64 and under_autocast(value.device.type):
        return torch.get_autocast_dtype(value.device.type)
    return value.dtype


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
        query, key, value, proj_weight, proj_bias, rpb1, rpb2: the tensors of `Inputs`, which has their shapes.
        scale: the factor of the affinities.
        backend: `auto`, or one of `BACKENDS` by name.

    Returns:
        (B, C, H, W), channels_last in memory.

    Raises:
        ValueError: if the shapes do not fit each other, the map is smaller than K (see `enlarged_size`), or the backend
            cannot run here.
    """
    inputs = Inputs(query, key, value, proj_weight, proj_bias, rpb1, rpb2)
    check(inputs)
    dtype = _dtype(value)
    inputs = Inputs(*[x if x.dtype == dtype else x.to(dtype) for x in inputs])
    if is_exporting():
        return exported.forward(inputs, scale)
    if backend == "reference" and torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
        note("reference")
        return reference.forward(inputs, scale)  # differentiated by autograd, step by step
    out: Tensor = torch.ops.overlock.contmix(*inputs, scale, backend)
    return out


def contmix_merged(
    query: Tensor, key: Tensor, value: Tensor, proj_weight: Tensor, bias1: Tensor, bias2: Tensor, scale: float
) -> Tensor:
    """`contmix` for inference, with the three biases merged beforehand by `merge_biases` for this map's size.

    Raises:
        ValueError: if the biases are of another number of queries. Those of a turned map (20x30 for 30x20) have the
            same number and pass.
    """
    height, width = value.shape[-2:]
    queries = {tiled.tiled_queries(height, width, math.isqrt(bias.shape[-1])) for bias in (bias1, bias2)}
    if {bias1.shape[1], bias2.shape[1]} != queries:
        raise ValueError(
            f"biases merged for {bias1.shape[1]} and {bias2.shape[1]} queries do not fit a "
            f"{height}x{width} map: merge them for its size"
        )
    dtype = _dtype(value)
    query, key, value, proj_weight, bias1, bias2 = (x.to(dtype) for x in (query, key, value, proj_weight, bias1, bias2))
    if is_exporting():
        return tiled.forward_merged(query, key, value, proj_weight, bias1, bias2, scale)
    out: Tensor = torch.ops.overlock.contmix_merged(query, key, value, proj_weight, bias1, bias2, scale)
    return out
