"""The multiply-adds of ContMix as it is defined, whichever implementation runs."""

from __future__ import annotations

from collections.abc import Sequence


def contmix_macs(
    query: Sequence[int], key: Sequence[int], value: Sequence[int], rpb1: Sequence[int], rpb2: Sequence[int]
) -> dict[str, int]:
    """MACs of the defined operator by part, from the shapes of its arguments (those of `Inputs`).

    Returns:
        `affinity` (query times key), `projection` (affinities to taps) and `aggregation` (taps times values).
    """
    batch, query_channels, height, width = query
    tokens, heads = height * width, rpb1[0]
    regions = key[2] * key[3]
    small, large = ((shape[-1] + 1) ** 2 // 4 for shape in (rpb1, rpb2))
    return {
        "affinity": batch * tokens * query_channels * regions,
        "projection": batch * heads * tokens * regions * (small + large),
        "aggregation": batch * tokens * (value[1] // 2) * (small + large),
    }
