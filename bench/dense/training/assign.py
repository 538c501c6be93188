"""Which boxes are trained on which objects, and the random share of them that a loss sees."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import box_iou

NEGATIVE, IGNORED = -1, -2


def match_boxes(boxes: Tensor, objects: Tensor, positive: float, negative: float, each_object: bool = False) -> Tensor:
    """For each box (R, 4) the index of its object (G, 4), `NEGATIVE`, or `IGNORED` between the two thresholds.

    Args:
        positive, negative: a box has the object of its largest IoU if that is at least `positive`, and is a negative
            below `negative`.
        each_object: an object also gets the boxes of its own largest IoU, if that is at least `negative`.
    """
    if not len(objects):
        return boxes.new_full((len(boxes),), NEGATIVE, dtype=torch.long)
    iou = box_iou(boxes, objects)
    best, index = iou.max(dim=1)
    index = torch.where(best >= positive, index, IGNORED).masked_fill(best < negative, NEGATIVE)
    if each_object:
        largest = iou.max(dim=0).values
        rows, columns = ((iou == largest) & (largest >= negative)).nonzero(as_tuple=True)
        index[rows] = columns
    return index


def sample(matched: Tensor, number: int, positive_share: float) -> tuple[Tensor, Tensor]:
    """Rows of random positives, at most `positive_share` of `number`, and of random negatives for the rest of it."""
    positive, negative = (matched >= 0).nonzero()[:, 0], (matched == NEGATIVE).nonzero()[:, 0]
    positive = positive[torch.randperm(len(positive), device=positive.device)][: int(number * positive_share)]
    negative = negative[torch.randperm(len(negative), device=negative.device)][: number - len(positive)]
    return positive, negative
