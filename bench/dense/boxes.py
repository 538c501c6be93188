"""Box arithmetic: decoding of regression deltas, clipping, class-wise selection.

Boxes are (x1, y1, x2, y2) in pixels, width x2 - x1 (no "+1"). Sizes are (height, width).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image

Stds = tuple[float, float, float, float]

MAX_LOG_RATIO = abs(math.log(16 / 1000))
"""Largest |dw|, |dh|: one decoding scales a side by 62.5 at most."""


def at_least_float32(x: Tensor) -> Tensor:
    """Box arithmetic needs float32: bfloat16 has whole pixels at best."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def decode_boxes(boxes: Tensor, deltas: Tensor, stds: Stds, size: tuple[int, int] | None) -> Tensor:
    """Boxes moved and scaled by regression deltas, clipped to the image.

    Args:
        boxes: (R, 4).
        deltas: (R, 4 K), class-major, each dx dy dw dh in units of `stds`.
        stds: deviations that the deltas are multiplied with (means are 0).
        size: (height, width) of the image without its padding; None: not clipped.

    Returns:
        (R, 4 K).
    """
    rows, columns = deltas.shape
    deltas = deltas.reshape(rows, columns // 4, 4) * deltas.new_tensor(stds)
    centre = ((boxes[:, :2] + boxes[:, 2:]) * 0.5)[:, None]
    extent = (boxes[:, 2:] - boxes[:, :2])[:, None]
    centre = centre + extent * deltas[..., :2]
    half = extent * deltas[..., 2:].clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp() * 0.5
    decoded = torch.cat([centre - half, centre + half], dim=-1)
    if size is not None:
        decoded = clip_boxes_to_image(decoded, size)
    return decoded.reshape(rows, columns)


def encode_boxes(boxes: Tensor, targets: Tensor, stds: Stds) -> Tensor:
    """The deltas (R, 4) that make `decode_boxes` turn boxes (R, 4) into targets (R, 4)."""
    centre, extent = (boxes[:, :2] + boxes[:, 2:]) * 0.5, boxes[:, 2:] - boxes[:, :2]
    wanted_centre, wanted = (targets[:, :2] + targets[:, 2:]) * 0.5, targets[:, 2:] - targets[:, :2]
    deltas = torch.cat([(wanted_centre - centre) / extent, (wanted / extent).log()], dim=1)
    return deltas / deltas.new_tensor(stds)


def delta_of_class(deltas: Tensor, labels: Tensor) -> Tensor:
    """The four deltas (R, 4) of each row's class; class-agnostic deltas (R, 4) pass as they are."""
    if deltas.shape[1] == 4:
        return deltas
    rows = torch.arange(deltas.shape[0], device=deltas.device)
    return deltas.reshape(deltas.shape[0], deltas.shape[1] // 4, 4)[rows, labels]


def select_detections(
    boxes: Tensor, scores: Tensor, score_threshold: float = 0.05, iou_threshold: float = 0.5, limit: int = 100
) -> tuple[Tensor, Tensor, Tensor]:
    """Class-wise non-maximum suppression; one RoI may give several classes.

    Args:
        boxes: (R, 4 K), or (R, 4) shared by all classes.
        scores: (R, K + 1) probabilities, background last.
        score_threshold: a score must be above it.
        iou_threshold: a box is dropped where its IoU with a better one of its class is above it.
        limit: detections kept.

    Returns:
        boxes (N, 4), scores (N,), labels (N,), by falling score.
    """
    foreground = scores[:, :-1]
    row, label = (foreground > score_threshold).nonzero(as_tuple=True)
    score = foreground[row, label]
    candidates = boxes.reshape(boxes.shape[0], boxes.shape[1] // 4, 4)
    box = candidates[row, label if candidates.shape[1] > 1 else torch.zeros_like(label)]
    keep = batched_nms(box, score, label, iou_threshold)[:limit]
    return box[keep], score[keep], label[keep]
