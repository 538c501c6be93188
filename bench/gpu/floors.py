"""The least time that an operator can take: bytes over bandwidth, or multiply-adds over their rate.

Each input is read once, each output is written once, and nothing is stored between them. Importing this imports no
torch.
"""

from __future__ import annotations

from dataclasses import dataclass

REGIONS = 49
"""Of a map, each with a key that ContMix projects onto its taps: 7 x 7."""

ITEM = {"bfloat16": 2, "float16": 2, "float32": 4, "tf32": 4}


@dataclass(frozen=True)
class Rates:
    """What a device does in a second."""

    bandwidth: float  # bytes copied, read and written ones counted
    macs: dict[str, float]  # by dtype, of large matrix products


@dataclass(frozen=True)
class Work:
    """What an operator must do at least."""

    bytes: float
    macs: float

    def floor(self, rates: Rates, dtype: str) -> float:
        """Seconds: bytes over bandwidth or MACs over rate, whichever is more."""
        return max(self.bytes / rates.bandwidth, self.macs / rates.macs[dtype])


def contmix_work(
    batch: int, side: int, kernel: int, heads: int, width: int, dtype: str, backward: bool = False
) -> Work:
    """ContMix with projected keys, `width` channels a head. Backward: gradients of query, key, value and the tables."""
    tokens, taps, item = batch * side * side, 25 + kernel**2, ITEM[dtype]
    maps = tokens * heads * width * item  # of the query; value and output are twice that
    keys = batch * heads * width * REGIONS * item
    forward = 5 * maps + keys
    macs = tokens * heads * width * 2 * taps + batch * heads * width * REGIONS * taps
    if not backward:
        return Work(forward, macs)
    # read q, v, dO and keys, write dq, dv, dk; logits again, dW = dO v^T, dS pk, dS^T q, p^T dO
    return Work(8 * maps + 2 * keys, tokens * heads * width * taps * 5)


def depthwise_work(batch: int, channels: int, side: int, kernel: int, dtype: str, backward: bool = False) -> Work:
    """A depthwise convolution as it is defined; backward: of input and weight."""
    maps = batch * channels * side * side
    macs = maps * kernel**2
    return Work((3 if backward else 2) * maps * ITEM[dtype], (2 if backward else 1) * macs)
