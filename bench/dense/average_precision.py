"""COCO's average precision of boxes and masks, by pycocotools, and the paired comparison of two models."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle
from pycocotools.coco import COCO as Index
from pycocotools.cocoeval import COCOeval

from bench.dense.detection import Detections
from bench.dense.paste import paste_mask

KINDS = ("bbox", "segm")
STATS = (
    "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
    "AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large",
)  # fmt: skip
"""pycocotools' summary, in its order: precision, then recall with at most 1, 10 and 100 detections an image."""
Floats = NDArray[np.float64]


def to_rows(detections: Detections, size: tuple[int, int], categories: Sequence[int]) -> list[dict[str, Any]]:
    """Detections of one image in COCO's result format, without its id; masks drawn at `size`, run-length coded."""
    rows = []
    d = detections
    for box, score, label, mask in zip(d.boxes, d.scores, d.labels, d.masks, strict=True):
        drawn = paste_mask(mask, box, size).cpu().numpy()
        code = rle.encode(np.asfortranarray(drawn.astype(np.uint8)))
        x1, y1, x2, y2 = box.tolist()
        rows.append(
            {
                "category_id": categories[int(label)],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": float(score),
                "segmentation": {"size": list(size), "counts": code["counts"].decode()},
            }
        )
    return rows


def evaluated(truth: Any, results: Sequence[dict[str, Any]], kind: str, image_ids: Sequence[int]) -> COCOeval:
    """pycocotools' evaluation of results (with `image_id`) on some images, matched but not yet accumulated.

    For masks the boxes are left out: small, medium and large then go by the masks' area, as in the released code.
    """
    if kind == "segm":
        results = [{k: v for k, v in row.items() if k != "bbox"} for row in results]
    with contextlib.redirect_stdout(io.StringIO()):
        if results:
            detections = truth.loadRes([dict(row) for row in results])
        else:  # pycocotools cannot load an empty list
            detections = Index()
            detections.dataset = {**truth.dataset, "annotations": []}
            detections.createIndex()
        evaluation = COCOeval(truth, detections, kind)
        evaluation.params.imgIds = list(image_ids)
        evaluation.evaluate()
    return evaluation


def average_precision(evaluation: COCOeval) -> dict[str, float]:
    """`STATS` in percent; nan where no object is of that kind."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.accumulate()
        evaluation.summarize()
    values = evaluation.stats[: len(STATS)]
    return {name: float(100 * v) if v >= 0 else float("nan") for name, v in zip(STATS, values, strict=True)}


@dataclass
class Matches:
    """All detections of one category by falling score: image index (D,), and for each IoU threshold whether it matched
    an object and whether it is ignored, (T, D); `objects` (images,) are the counted objects of each image."""

    image: NDArray[np.int64]
    matched: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    objects: NDArray[np.int64]


def matches(evaluation: COCOeval) -> list[Matches]:
    """The matches of each category that has objects, over all areas and at most 100 detections an image."""
    p = evaluation.params
    images, areas, limit = len(p.imgIds), len(p.areaRng), p.maxDets[-1]
    out = []
    for k in range(len(p.catIds)):
        entries = evaluation.evalImgs[k * areas * images : k * areas * images + images]  # area range 0: all
        objects = np.array(
            [0 if e is None else int((~e["gtIgnore"].astype(bool)).sum()) for e in entries], dtype=np.int64
        )
        if not objects.any():
            continue
        there = [(i, e) for i, e in enumerate(entries) if e is not None]
        scores = np.concatenate([e["dtScores"][:limit] for _, e in there])
        order = np.argsort(-scores, kind="mergesort")
        image = np.concatenate([np.full(len(e["dtScores"][:limit]), i) for i, e in there]).astype(np.int64)
        matched = np.concatenate([e["dtMatches"][:, :limit] for _, e in there], axis=1).astype(bool)
        ignored = np.concatenate([e["dtIgnore"][:, :limit] for _, e in there], axis=1).astype(bool)
        out.append(Matches(image[order], matched[:, order], ignored[:, order], objects))
    return out


def weighted_ap(categories: Sequence[Matches], weights: NDArray[np.int64], recalls: Floats) -> float:
    """AP in percent with each image counted `weights` (images,) times; all ones give pycocotools' AP."""
    values: list[float] = []
    for m in categories:
        total = int((m.objects * weights).sum())
        if total == 0:
            continue
        w = weights[m.image]
        for matched, ignored in zip(m.matched, m.ignored, strict=True):
            hits = np.cumsum(w * (matched & ~ignored))
            misses = np.cumsum(w * (~matched & ~ignored))
            precision = hits / np.maximum(hits + misses, np.spacing(1))
            envelope = np.maximum.accumulate(precision[::-1])[::-1]
            at = np.searchsorted(hits / total, recalls, side="left")
            values.append(float(np.append(envelope, 0.0)[np.minimum(at, len(envelope))].mean()))
    return 100 * float(np.mean(values)) if values else float("nan")


def paired_difference(
    first: COCOeval, second: COCOeval, resamples: int = 200, seed: int = 0
) -> tuple[float, float, float]:
    """Difference of AP in points, first minus second, on the same images; 95 % interval from resampled images."""
    assert first.params.imgIds == second.params.imgIds, "the models must have seen the same images"
    a, b, recalls = matches(first), matches(second), first.params.recThrs
    n = len(first.params.imgIds)
    rng = np.random.default_rng(seed)
    differences = [
        weighted_ap(a, w, recalls) - weighted_ap(b, w, recalls)
        for w in rng.multinomial(n, np.full(n, 1 / n), size=resamples)
    ]
    ones = np.ones(n, dtype=np.int64)
    low, high = np.nanpercentile(differences, [2.5, 97.5])
    return weighted_ap(a, ones, recalls) - weighted_ap(b, ones, recalls), float(low), float(high)
