"""Summaries of repeated measurements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Summary:
    """Median of `n` samples with their 20th and 80th percentile."""

    median: float
    lo: float
    hi: float
    n: int


def summarise(samples: Sequence[float]) -> Summary:
    """Median and spread of at least one sample."""
    assert samples, "nothing to summarise"
    lo, median, hi = (float(q) for q in np.percentile(np.asarray(samples, dtype=np.float64), (20, 50, 80)))
    return Summary(median, lo, hi, len(samples))
