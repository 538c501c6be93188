"""The rule for maps smaller than the kernel: ContMix runs on an enlarged map, its result is pooled back."""

from __future__ import annotations


def enlarged_size(height: int, width: int, kernel_size: int) -> tuple[int, int] | None:
    """Size at which ContMix runs for an H x W map, or None where the map holds a whole window already.

    The longer side is `int(K / short * long)` in double precision, left to right: integer arithmetic would give
    another size for a few shapes (5x45 with K=7 becomes 62 wide, not 63).
    """
    if min(height, width) >= kernel_size:
        return None
    if height < width:
        return kernel_size, int(kernel_size / height * width)
    return int(kernel_size / width * height), kernel_size
