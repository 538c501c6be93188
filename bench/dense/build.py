"""Whole dense models by name: which task and head, on which backbone."""

from __future__ import annotations

from typing import Any

from torch import nn

from bench.dense.backbones import build_backbone
from bench.dense.categories import STANDARD
from bench.dense.segmentation import SegmentationModel
from bench.tasks import task_of


def build_dense(
    name: str, head: str, form: str = "deploy", auxiliary: bool = True, classes: int | None = None, **kwargs: Any
) -> nn.Module:
    """A whole model with random weights, in evaluation mode.

    Args:
        name: of the backbone.
        head: "upernet", "maskrcnn", "cascade" (4conv1fc) or "cascade_2fc".
        form: of the backbone, "train" or "deploy".
        auxiliary: UperNet with its auxiliary head, which published parameter counts include.
        classes: how many the head tells apart (default: ADE20K's 150, or COCO's 80).
        kwargs: for the backbone's builder.

    Raises:
        ValueError: for another head; BadInput for an unknown model.
    """
    task = task_of(head)
    backbone = build_backbone(name, task, form, **kwargs)
    if task == "segmentation":
        return SegmentationModel(backbone, auxiliary=auxiliary, num_classes=classes or STANDARD["ade20k"]).eval()
    from bench.dense.cascade import CascadeHead
    from bench.dense.detection import DetectionModel
    from bench.dense.mask_rcnn import MaskRCNNHead

    kinds, number = {"cascade": "4conv1fc", "cascade_2fc": "2fc"}, classes or STANDARD["coco"]
    roi_head = CascadeHead(kinds[head], number) if head in kinds else MaskRCNNHead(number)
    return DetectionModel(backbone, roi_head=roi_head).eval()
