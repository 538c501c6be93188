"""What is minimised: a model and its losses as one module, so that `DistributedDataParallel` can wrap it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.dense.cascade import CascadeHead
from bench.dense.categories import IGNORED
from bench.dense.detection import DetectionModel
from bench.dense.segmentation import SegmentationModel
from bench.dense.training.roi_loss import NUMBER, Objects, roi_losses
from bench.dense.training.rpn_loss import rpn_losses

AUXILIARY_WEIGHT = 0.4
Losses = dict[str, Tensor]


class SegmentationLosses(nn.Module):
    """Cross entropy of the decode head, and 0.4 times the auxiliary head's."""

    def __init__(self, model: SegmentationModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, labels: Tensor) -> Losses:
        """(B, 3, H, W) and (B, H, W) of classes, 255 ignored."""
        out = self.model(images)
        weights = {"main": 1.0, "aux": AUXILIARY_WEIGHT}
        heads = out if isinstance(out, dict) else {"main": out}
        return {
            head: weights[head] * F.cross_entropy(logits.float(), labels, ignore_index=IGNORED)
            for head, logits in heads.items()
        }


class DetectionLosses(nn.Module):
    """Losses of the proposals and of the second stage. The best 2000 boxes of a level are proposed, 1000 an image
    (2000 to a cascade).

    Args:
        number: boxes of an image that the second stage is trained on.
    """

    def __init__(self, model: DetectionModel, number: int = NUMBER) -> None:
        super().__init__()
        self.model, self.number = model, number
        model.rpn_head.per_level = 2000
        model.rpn_head.limit = 2000 if isinstance(model.roi_head, CascadeHead) else 1000

    def forward(self, images: Tensor, sizes: Sequence[tuple[int, int]], objects: Sequence[Objects]) -> Losses:
        """(B, 3, H, W), padded; each image's (height, width) without padding, and its objects."""
        pyramid = self.model.neck(self.model.backbone(images))
        outputs = self.model.rpn_head(pyramid)
        losses = rpn_losses(outputs, [of_image.boxes for of_image in objects])
        with torch.no_grad():
            proposals = [self.model.rpn_head.propose(outputs, i, size)[0] for i, size in enumerate(sizes)]
        return losses | roi_losses(self.model.roi_head, pyramid, proposals, objects, sizes, self.number)
