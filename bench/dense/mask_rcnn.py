"""Second stage of Mask R-CNN (He et al., ICCV 2017)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bench.dense.boxes import Stds, at_least_float32, decode_boxes, select_detections
from bench.dense.roi import roi_features
from bench.dense.roi_heads import BOX_SIZE, MASK_SIZE, BoxHead, MaskHead

BOX_STDS: Stds = (0.1, 0.1, 0.2, 0.2)


def class_masks(logits: Tensor, labels: Tensor) -> Tensor:
    """Probabilities (N, 28, 28) of each detection's own class from mask logits (N, K, 28, 28)."""
    return at_least_float32(logits[torch.arange(len(labels), device=labels.device), labels]).sigmoid()


class MaskRCNNHead(nn.Module):
    """Box head and mask head of one image's proposals.

    The steps are apart, so that a cost or a timing can run them on a fixed number of boxes.
    """

    def __init__(self, num_classes: int = 80) -> None:
        super().__init__()
        self.bbox_head = BoxHead("2fc", num_classes)
        self.mask_head = MaskHead(num_classes)

    @property
    def box_heads(self) -> list[nn.Module]:
        return [self.bbox_head]

    @property
    def mask_heads(self) -> list[nn.Module]:
        return [self.mask_head]

    def score_boxes(self, maps: Sequence[Tensor], proposals: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Boxes (P, 4 K) in input coordinates and probabilities (P, K + 1) of the proposals (P, 4)."""
        logits, deltas = self.bbox_head(roi_features(maps, proposals, BOX_SIZE))
        boxes = decode_boxes(proposals, at_least_float32(deltas), BOX_STDS, size)
        return boxes, at_least_float32(logits).softmax(dim=1)

    def masks(self, maps: Sequence[Tensor], boxes: Tensor, labels: Tensor) -> Tensor:
        """Mask probabilities (N, 28, 28) of boxes (N, 4) in input coordinates."""
        return class_masks(self.mask_head(roi_features(maps, boxes, MASK_SIZE)), labels)

    def forward(
        self, maps: Sequence[Tensor], proposals: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Detections of one image.

        Args:
            maps: the pyramid's maps, (1, C, H, W) each.
            proposals: (P, 4) in input coordinates.
            size: (height, width) of the image without padding.

        Returns:
            boxes (N, 4) in input coordinates, scores (N,), labels (N,), mask probabilities (N, 28, 28).
        """
        boxes, scores, labels = select_detections(*self.score_boxes(maps, proposals, size))
        return boxes, scores, labels, self.masks(maps, boxes, labels)
