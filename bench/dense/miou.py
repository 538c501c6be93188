"""Mean intersection over union from dataset-wide sums, and the paired comparison of two models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.dense.categories import IGNORED, STANDARD

CLASSES = STANDARD["ade20k"]

Counts = NDArray[np.int64]
"""(3, K): pixels of each class in the intersection, in the prediction, in the label; ignored pixels left out."""


def image_counts(prediction: NDArray[np.integer[Any]], label: NDArray[np.uint8], classes: int = CLASSES) -> Counts:
    """Counts (3, K) of one image from maps (H, W) of classes, `IGNORED` where the label is of none."""
    kept = label != IGNORED
    prediction, label = prediction[kept], label[kept]
    hit = prediction[prediction == label]
    return np.stack([np.bincount(x, minlength=classes)[:classes] for x in (hit, prediction, label)]).astype(np.int64)


def to_row(counts: Counts) -> dict[str, list[int]]:
    """Counts of one image without the classes that are absent, for storing: class -> the three numbers."""
    return {str(k): counts[:, k].tolist() for k in np.flatnonzero(counts.any(axis=0))}


def from_row(row: Mapping[str, Sequence[int]], classes: int = CLASSES) -> Counts:
    counts = np.zeros((3, classes), dtype=np.int64)
    for k, values in row.items():
        counts[:, int(k)] = values
    return counts


@dataclass(frozen=True)
class Segmentation:
    """Scores in percent: mean IoU and mean accuracy over the classes that occur, and pixel accuracy."""

    miou: float
    macc: float
    aacc: float


def score(counts: Counts) -> Segmentation:
    """Scores from counts (3, K) summed over the images; a class neither predicted nor labelled is left out."""
    hit, predicted, labelled = counts.astype(np.float64)
    union = predicted + labelled - hit
    seen, present = union > 0, labelled > 0
    if not present.any():
        return Segmentation(float("nan"), float("nan"), float("nan"))
    return Segmentation(
        miou=float(100 * (hit[seen] / union[seen]).mean()),
        macc=float(100 * (hit[present] / labelled[present]).mean()),
        aacc=float(100 * hit.sum() / labelled.sum()),
    )


def paired_difference(
    first: Sequence[Counts], second: Sequence[Counts], resamples: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """Difference of mean IoU, first minus second, on the same images, with a 95 % interval from resampled images.

    Returns:
        (difference, low, high) in points.
    """
    assert len(first) == len(second), "the models must have seen the same images"
    a, b = np.stack(first), np.stack(second)  # (images, 3, K)
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(len(a), np.full(len(a), 1 / len(a)), size=resamples)
    differences = [score(np.tensordot(w, a, 1)).miou - score(np.tensordot(w, b, 1)).miou for w in weights]
    low, high = np.nanpercentile(differences, [2.5, 97.5])
    return score(a.sum(axis=0)).miou - score(b.sum(axis=0)).miou, float(low), float(high)
