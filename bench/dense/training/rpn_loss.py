"""Losses of the region proposal network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.dense.anchors import STRIDES, grid_anchors
from bench.dense.boxes import at_least_float32, encode_boxes
from bench.dense.rpn import RPN_STDS
from bench.dense.training.assign import match_boxes, sample

NUMBER, POSITIVE_SHARE = 256, 0.5
POSITIVE_IOU, NEGATIVE_IOU = 0.7, 0.3


def rpn_losses(outputs: Sequence[tuple[Tensor, Tensor]], objects: Sequence[Tensor]) -> dict[str, Tensor]:
    """Binary cross entropy of 256 anchors an image and L1 of the positives' deltas, each over the anchors sampled.

    Args:
        outputs: each level's logits (B, 3, H, W) and deltas (B, 12, H, W).
        objects: each image's boxes (G, 4), in the network's input.
    """
    maps = [(at_least_float32(cls), at_least_float32(reg)) for cls, reg in outputs]
    levels = zip(STRIDES, (cls for cls, _ in maps), strict=True)
    anchors = torch.cat([grid_anchors(stride, cls.shape[-2], cls.shape[-1], like=cls) for stride, cls in levels])
    logits = torch.cat([cls.permute(0, 2, 3, 1).flatten(1) for cls, _ in maps], dim=1)
    deltas = torch.cat([reg.permute(0, 2, 3, 1).reshape(len(reg), -1, 4) for _, reg in maps], dim=1)
    scores, boxes, sampled = logits.new_zeros(()), logits.new_zeros(()), 0
    for i, of_image in enumerate(objects):
        matched = match_boxes(anchors, of_image, POSITIVE_IOU, NEGATIVE_IOU, each_object=True)
        positive, negative = sample(matched, NUMBER, POSITIVE_SHARE)
        rows = torch.cat([positive, negative])
        wanted = (matched[rows] >= 0).to(logits)
        scores = scores + F.binary_cross_entropy_with_logits(logits[i, rows], wanted, reduction="sum")
        target = encode_boxes(anchors[positive], of_image[matched[positive]], RPN_STDS)
        boxes = boxes + F.l1_loss(deltas[i, positive], target, reduction="sum")
        sampled += len(rows)
    return {"rpn_score": scores / max(sampled, 1), "rpn_box": boxes / max(sampled, 1)}
