"""Second stage of Cascade Mask R-CNN (Cai and Vasconcelos, TPAMI 2019)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bench.dense.boxes import Stds, at_least_float32, decode_boxes, delta_of_class, select_detections
from bench.dense.mask_rcnn import class_masks
from bench.dense.roi import roi_features
from bench.dense.roi_heads import BOX_SIZE, MASK_SIZE, BoxHead, MaskHead

STAGE_STDS: tuple[Stds, ...] = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))


def ensemble(logits: Sequence[Tensor]) -> Tensor:
    """Probabilities of the stages together: the mean is of logits, the softmax comes after."""
    return torch.stack(list(logits)).mean(dim=0).softmax(dim=1)


class CascadeHead(nn.Module):
    """Three box heads, each on the boxes that the one before refined, and three mask heads on the final boxes.

    Args:
        kind: "4conv1fc" (a box for each class) or "2fc" (one box for all classes), the two that were released.
    """

    def __init__(self, kind: str = "4conv1fc", num_classes: int = 80) -> None:
        super().__init__()
        self.kind = kind
        self.bbox_head = nn.ModuleList(BoxHead(kind, num_classes, class_agnostic=kind == "2fc") for _ in STAGE_STDS)
        self.mask_head = nn.ModuleList(MaskHead(num_classes) for _ in STAGE_STDS)

    @property
    def box_heads(self) -> list[nn.Module]:
        return list(self.bbox_head)

    @property
    def mask_heads(self) -> list[nn.Module]:
        return list(self.mask_head)

    def score_boxes(self, maps: Sequence[Tensor], proposals: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Boxes (P, 4 K) or (P, 4) in input coordinates and probabilities (P, K + 1) of the proposals (P, 4)."""
        boxes, stage_logits = proposals, []
        decoded = proposals
        for stage, (head, stds) in enumerate(zip(self.bbox_head, STAGE_STDS, strict=True)):
            logits, deltas = (at_least_float32(x) for x in head(roi_features(maps, boxes, BOX_SIZE)))
            stage_logits.append(logits)
            if stage < len(STAGE_STDS) - 1:
                best = logits[:, :-1].argmax(dim=1)  # of this stage alone, background apart
                boxes = decode_boxes(boxes, delta_of_class(deltas, best), stds, size)
            else:
                decoded = decode_boxes(boxes, deltas, stds, size)
        return decoded, ensemble(stage_logits)

    def masks(self, maps: Sequence[Tensor], boxes: Tensor, labels: Tensor) -> Tensor:
        """Mask probabilities (N, 28, 28) of boxes (N, 4) in input coordinates: the mean over the three heads."""
        features = roi_features(maps, boxes, MASK_SIZE)
        return torch.stack([class_masks(head(features), labels) for head in self.mask_head]).mean(dim=0)

    def forward(
        self, maps: Sequence[Tensor], proposals: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Boxes (N, 4) in input coordinates, scores (N,), labels (N,), mask probabilities (N, 28, 28) of one image."""
        boxes, scores, labels = select_detections(*self.score_boxes(maps, proposals, size))
        return boxes, scores, labels, self.masks(maps, boxes, labels)
