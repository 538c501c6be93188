"""The whole detection model, with the names of released checkpoints: `backbone.`, `neck.`, `rpn_head.`, `roi_head.`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.dense.cascade import CascadeHead
from bench.dense.features import feature_channels
from bench.dense.fpn import FPN
from bench.dense.mask_rcnn import MaskRCNNHead
from bench.dense.rpn import RPNHead


@dataclass(frozen=True)
class ImageSize:
    """Sizes (height, width) of one image: as it was, and as it lies in the network's input, its padding left out."""

    original: tuple[int, int]
    resized: tuple[int, int]

    def scale(self, like: Tensor) -> Tensor:
        """(4,) factors from the original to the input: x, y, x, y; the axes are rounded apart."""
        y, x = (new / old for new, old in zip(self.resized, self.original, strict=True))
        return like.new_tensor([x, y, x, y])


@dataclass
class Detections:
    """Detections of one image by falling score.

    `boxes` (N, 4) are in the original image, `scores` (N,) count for the box and the mask, `labels` (N,) are 0-based
    indices of classes, `masks` (N, 28, 28) are probabilities over the box: `paste_mask` draws them.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor


class DetectionModel(nn.Module):
    """Backbone, FPN, RPN and RoI heads.

    Args:
        backbone: see `bench.dense.features`.
        roi_head: `MaskRCNNHead` or `CascadeHead`; Mask R-CNN's where None.
        neck, rpn_head: FPN for the backbone's channels, and an RPN, where None.
    """

    def __init__(
        self,
        backbone: nn.Module,
        neck: FPN | None = None,
        rpn_head: RPNHead | None = None,
        roi_head: MaskRCNNHead | CascadeHead | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck or FPN(feature_channels(backbone))
        self.rpn_head = rpn_head or RPNHead()
        self.roi_head = roi_head or MaskRCNNHead()

    def forward(self, x: Tensor, sizes: list[ImageSize] | None = None) -> list[Detections]:
        """Detections of each image of a batch.

        Args:
            x: (B, 3, H, W), normalised, then padded with zeros at the bottom and the right.
            sizes: of each image; without it an image fills its input and was not resized.

        Raises:
            ValueError: where `sizes` does not fit `x`.
        """
        sizes = check_sizes(x, sizes)
        pyramid = self.neck(self.backbone(x))
        outputs = self.rpn_head(pyramid)
        detections = []
        for i, size in enumerate(sizes):
            maps = [level[i : i + 1] for level in pyramid]
            proposals, _ = self.rpn_head.propose(outputs, i, size.resized)
            boxes, scores, labels, masks = self.roi_head(maps, proposals, size.resized)
            detections.append(Detections(boxes / size.scale(boxes), scores, labels, masks))
        return detections

    def fixed_path(self, x: Tensor, boxes: int = 1000, masks: int = 100) -> tuple[Tensor, Tensor, Tensor]:
        """The same networks on a fixed number of boxes, for timing models whose weights are random.

        The proposals are computed but not used: the boxes are the same for every model (`spread_boxes`). The final
        class-wise suppression and the pasting, whose time hangs on what was detected, are left out.

        Args:
            x: (B, 3, H, W).
            boxes: boxes an image that the box heads score (in each stage).
            masks: the first of these boxes that the mask heads draw.

        Returns:
            decoded boxes (B, boxes, 4 K or 4), probabilities (B, boxes, K + 1), masks (B, masks, 28, 28).
        """
        size = (x.shape[-2], x.shape[-1])
        pyramid = self.neck(self.backbone(x))
        outputs = self.rpn_head(pyramid)
        results = []
        for i in range(x.shape[0]):
            self.rpn_head.propose(outputs, i, size)
            maps = [level[i : i + 1] for level in pyramid]
            fixed = spread_boxes(boxes, size).to(x.device)
            decoded, scores = self.roi_head.score_boxes(maps, fixed, size)
            labels = torch.arange(masks, device=x.device) % (scores.shape[1] - 1)
            results.append((decoded, scores, self.roi_head.masks(maps, fixed[:masks], labels)))
        decoded, scores, drawn = (torch.stack(parts) for parts in zip(*results, strict=True))
        return decoded, scores, drawn


def spread_boxes(count: int, size: tuple[int, int], seed: int = 0) -> Tensor:
    """(count, 4) float32 boxes within (height, width): centres uniform, sides log-uniform from 16 pixels up."""
    height, width = size
    u = torch.rand(count, 4, generator=torch.Generator().manual_seed(seed))
    limit = torch.tensor([width, height], dtype=torch.float32)
    centre = u[:, :2] * limit
    half = 8.0 * (limit / 16).clamp(min=1) ** u[:, 2:]
    low, high = (centre - half).clamp(min=0), torch.minimum(centre + half, limit)
    return torch.cat([low, high], dim=1)


def check_sizes(x: Tensor, sizes: list[ImageSize] | None) -> list[ImageSize]:
    """`sizes`, or those of unresized images without padding."""
    height, width = x.shape[-2:]
    if sizes is None:
        return [ImageSize((height, width), (height, width))] * x.shape[0]
    if len(sizes) != x.shape[0]:
        raise ValueError(f"{x.shape[0]} images but {len(sizes)} sizes")
    for size in sizes:
        if size.resized[0] > height or size.resized[1] > width:
            raise ValueError(f"an image of {size.resized} does not fit into an input of {(height, width)}")
    return sizes
