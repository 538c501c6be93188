"""Losses of the second stage: Mask R-CNN's one, the cascades' three."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import generalized_box_iou_loss, roi_align

from bench.dense.boxes import Stds, at_least_float32, decode_boxes, delta_of_class, encode_boxes
from bench.dense.cascade import STAGE_STDS, CascadeHead
from bench.dense.mask_rcnn import BOX_STDS, MaskRCNNHead
from bench.dense.roi import roi_features
from bench.dense.roi_heads import BOX_SIZE, MASK_SIZE
from bench.dense.training.assign import match_boxes, sample

NUMBER, POSITIVE_SHARE = 512, 0.25


class Objects(NamedTuple):
    """What an image shows, in the network's input: boxes (G, 4), labels (G,), masks (G, H, W) of 0 and 1."""

    boxes: Tensor
    labels: Tensor
    masks: Tensor


@dataclass(frozen=True)
class Stage:
    """How one stage is trained: IoU of a positive, deviations of its deltas, loss weight, loss of boxes."""

    iou: float
    stds: Stds
    weight: float = 1.0
    box_loss: str = "l1"  # l1, smooth_l1 (beta 1) or giou (times 10)


def stages_of(roi_head: MaskRCNNHead | CascadeHead) -> list[Stage]:
    """The field's defaults: IoU 0.5, in a cascade 0.5, 0.6, 0.7 with weights 1, 0.5, 0.25."""
    if isinstance(roi_head, MaskRCNNHead):
        return [Stage(0.5, BOX_STDS)]
    kind = "giou" if roi_head.kind == "4conv1fc" else "smooth_l1"
    settings = zip((0.5, 0.6, 0.7), STAGE_STDS, (1.0, 0.5, 0.25), strict=True)
    return [Stage(iou, stds, weight, kind) for iou, stds, weight in settings]


def roi_losses(
    roi_head: MaskRCNNHead | CascadeHead,
    pyramid: Sequence[Tensor],
    proposals: Sequence[Tensor],
    objects: Sequence[Objects],
    sizes: Sequence[tuple[int, int]],
    number: int = NUMBER,
) -> dict[str, Tensor]:
    """Class, box and mask losses of a batch, summed over the stages by their weights.

    Args:
        pyramid: maps (B, C, H, W).
        proposals: each image's (P, 4); its objects' boxes are added to them in every stage.
        sizes: each image's (height, width) without padding.
        number: boxes of an image that a stage is trained on.
    """
    total: dict[str, Tensor] = {}
    boxes = list(proposals)
    for stage, box_head, mask_head in zip(stages_of(roi_head), roi_head.box_heads, roi_head.mask_heads, strict=True):
        sums: dict[str, Tensor] = {}
        sampled = masked = 0
        for i, of_image in enumerate(objects):
            maps = [level[i : i + 1] for level in pyramid]
            chosen, matched = _choose(boxes[i], of_image, stage.iou, number)
            losses, boxes[i] = _boxes(box_head, maps, chosen, matched, of_image, stage, sizes[i])
            positive = matched >= 0
            losses["mask"] = _masks(mask_head, maps, chosen[positive], matched[positive], of_image)
            sums = {name: sums.get(name, 0) + loss for name, loss in losses.items()}
            sampled, masked = sampled + len(chosen), masked + int(positive.sum())
        means = {name: loss / max(masked if name == "mask" else sampled, 1) for name, loss in sums.items()}
        total = {name: total.get(name, 0) + stage.weight * loss for name, loss in means.items()}
    return total


def _choose(proposals: Tensor, objects: Objects, iou: float, number: int) -> tuple[Tensor, Tensor]:
    """Random boxes (R, 4) of the proposals and the objects' own, positives first, and the object of each or -1."""
    candidates = torch.cat([objects.boxes, proposals.to(objects.boxes)])
    matched = match_boxes(candidates, objects.boxes, iou, iou)
    rows = torch.cat(sample(matched, number, POSITIVE_SHARE))
    return candidates[rows], matched[rows]


def _boxes(
    head: nn.Module,
    maps: Sequence[Tensor],
    boxes: Tensor,
    matched: Tensor,
    objects: Objects,
    stage: Stage,
    size: tuple[int, int],
) -> tuple[dict[str, Tensor], Tensor]:
    """Summed class and box losses, and the boxes refined for the next stage (without the objects' own)."""
    logits, deltas = (at_least_float32(x) for x in head(roi_features(maps, boxes, BOX_SIZE)))
    positive = matched >= 0
    labels = logits.new_full((len(boxes),), logits.shape[1] - 1, dtype=torch.long)
    labels[positive] = objects.labels[matched[positive]]
    losses = {"class": F.cross_entropy(logits, labels, reduction="sum")}
    own = delta_of_class(deltas[positive], labels[positive])
    target = objects.boxes[matched[positive]]
    if stage.box_loss == "giou":
        decoded = decode_boxes(boxes[positive], own, stage.stds, None)
        losses["box"] = 10 * generalized_box_iou_loss(decoded, target, reduction="sum")
    else:
        loss = F.l1_loss if stage.box_loss == "l1" else F.smooth_l1_loss
        losses["box"] = loss(own, encode_boxes(boxes[positive], target, stage.stds), reduction="sum")
    with torch.no_grad():
        label = torch.where(positive, labels, logits[:, :-1].argmax(dim=1))
        refined = decode_boxes(boxes, delta_of_class(deltas, label), stage.stds, size)
        exact = torch.zeros_like(positive)
        exact[positive] = (boxes[positive] == target).all(dim=1)
    return losses, refined[~exact]


def _masks(head: nn.Module, maps: Sequence[Tensor], boxes: Tensor, matched: Tensor, objects: Objects) -> Tensor:
    """Each box's mean binary cross entropy over the 28x28 mask of its object's class, summed."""
    logits = at_least_float32(head(roi_features(maps, boxes, MASK_SIZE)))
    logits = logits[torch.arange(len(boxes), device=boxes.device), objects.labels[matched]]
    rois = torch.cat([matched[:, None].to(boxes), boxes], dim=1)
    masks = roi_align(objects.masks[:, None].to(boxes), rois, logits.shape[-2:], sampling_ratio=0, aligned=True)
    wanted = (masks[:, 0] >= 0.5).to(logits)
    return F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(dim=(1, 2)).sum()
