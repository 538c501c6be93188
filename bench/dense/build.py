"""Whole dense models by name: which task and head, on which backbone."""

from __future__ import annotations

from torch import nn

from bench.dense.backbones import build_backbone
from bench.dense.segmentation import SegmentationModel

HEADS = {
    "segmentation": ("upernet",),
    "detection": ("cascade", "cascade_2fc", "maskrcnn"),
}
"""Heads of each task, the default first. "cascade" is the 4conv1fc one, which the published cascade figures use."""


def build_dense(name: str, head: str, form: str = "deploy", auxiliary: bool = True) -> nn.Module:
    """A whole model with random weights, in evaluation mode.

    Args:
        name: of the backbone.
        head: "upernet", "maskrcnn", "cascade" (4conv1fc) or "cascade_2fc".
        form: of the backbone, "train" or "deploy".
        auxiliary: UperNet with its auxiliary head, which published parameter counts include.

    Raises:
        ValueError: for another head; BadInput for an unknown model.
    """
    task = task_of(head)
    backbone = build_backbone(name, task, form)
    if task == "segmentation":
        return SegmentationModel(backbone, auxiliary=auxiliary).eval()
    from bench.dense.cascade import CascadeHead
    from bench.dense.detection import DetectionModel
    from bench.dense.mask_rcnn import MaskRCNNHead

    kinds = {"cascade": "4conv1fc", "cascade_2fc": "2fc"}
    roi_head = CascadeHead(kinds[head]) if head in kinds else MaskRCNNHead()
    return DetectionModel(backbone, roi_head=roi_head).eval()


def task_of(head: str) -> str:
    """The task that a head serves.

    Raises:
        ValueError: for an unknown head.
    """
    for task, heads in HEADS.items():
        if head in heads:
            return task
    raise ValueError(f"unknown head {head!r}: give one of {', '.join(h for heads in HEADS.values() for h in heads)}")
