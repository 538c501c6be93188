"""What goes into ContMix, and what an implementation of it must offer."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor


class Inputs(NamedTuple):
    """ContMix's seven tensors, or their gradients.

    Shapes: B batch, G heads, H W map, R = r*r regions, k and K the small and the large kernel, T = k*k + K*K taps.
    """

    query: Tensor  # (B, Cq, H, W), channels as (G, Cq / G)
    key: Tensor  # (B, Cq, r, r), the region centres
    value: Tensor  # (B, C, H, W), channels as (2, G, C / 2 / G): the first half for the small kernel
    proj_weight: Tensor  # (T, R), from affinities to taps, shared by the heads
    proj_bias: Tensor  # (T,)
    rpb1: Tensor  # (G, 2k-1, 2k-1), relative-position bias of the small kernel
    rpb2: Tensor  # (G, 2K-1, 2K-1), that of the large one


class Backend(Protocol):
    """An implementation of ContMix: a module with these three functions."""

    def why_not(self, value: Tensor) -> str | None:
        """The reason why it cannot run on values like these, or None where it can."""

    def forward(self, inputs: Inputs, scale: float) -> Tensor:
        """ContMix of inputs of one dtype: (B, C, H, W)."""

    def backward(self, grad: Tensor, inputs: Inputs, scale: float) -> Inputs:
        """The gradients of the seven tensors, from that of the output."""


def window_size(rpb: Tensor) -> int:
    """K of a table of relative positions (G, 2K-1, 2K-1)."""
    return (rpb.shape[-1] + 1) // 2


def check(inputs: Inputs) -> None:
    """Raises ValueError, with the shapes, where they do not fit each other or the map is smaller than K."""
    query, key, value, proj_weight, proj_bias, rpb1, rpb2 = inputs
    heads, large = rpb1.shape[0], window_size(rpb2)
    taps, regions = window_size(rpb1) ** 2 + large**2, key.shape[2] * key.shape[3]
    height, width = value.shape[-2:]
    if min(height, width) < large:
        raise ValueError(f"a {height}x{width} map is smaller than the {large}x{large} kernel: enlarge it")
    if query.shape[1] % heads or value.shape[1] % (2 * heads) or query.shape[1] != key.shape[1]:
        raise ValueError(
            f"{query.shape[1]} query, {key.shape[1]} key and {value.shape[1]} value channels "
            f"do not split into {heads} heads"
        )
    if tuple(proj_weight.shape) != (taps, regions):
        raise ValueError(
            f"the projection is {tuple(proj_weight.shape)}, the kernels and regions need {(taps, regions)}"
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
