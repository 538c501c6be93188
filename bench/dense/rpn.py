"""Region proposal network (Ren et al., NeurIPS 2015) on the five levels of an FPN."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms

from bench.dense.anchors import RATIOS, STRIDES, grid_anchors
from bench.dense.boxes import Stds, at_least_float32, decode_boxes

RPN_STDS: Stds = (1.0, 1.0, 1.0, 1.0)


class RPNHead(nn.Module):
    """3x3 and ReLU, then one score and four deltas an anchor; proposals by NMS within each level.

    Args:
        channels: of the maps.
        per_level: best anchors of each level that are decoded.
        limit: proposals kept over all levels.
        iou_threshold: of the suppression.
    """

    def __init__(
        self, channels: int = 256, per_level: int = 1000, limit: int = 1000, iou_threshold: float = 0.7
    ) -> None:
        super().__init__()
        self.per_level, self.limit, self.iou_threshold = per_level, limit, iou_threshold
        self.rpn_conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.rpn_cls = nn.Conv2d(channels, len(RATIOS), 1)
        self.rpn_reg = nn.Conv2d(channels, 4 * len(RATIOS), 1)

    def forward(self, maps: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Logits (B, 3, H, W) and deltas (B, 12, H, W) of each level."""
        outputs = []
        for x in maps:
            x = F.relu(self.rpn_conv(x), inplace=True)
            outputs.append((self.rpn_cls(x), self.rpn_reg(x)))
        return outputs

    def propose(
        self, outputs: Sequence[tuple[Tensor, Tensor]], index: int, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Proposals of one image of the batch.

        Args:
            outputs: what `forward` returned.
            index: which image.
            size: its (height, width) without padding.

        Returns:
            boxes (P, 4) in the coordinates of the network's input and scores (P,), by falling score, P <= `limit`.
        """
        boxes, scores, levels = [], [], []
        for level, (cls, reg) in enumerate(outputs):
            height, width = cls.shape[-2:]
            logit = at_least_float32(cls[index]).permute(1, 2, 0).flatten()
            delta = at_least_float32(reg[index]).permute(1, 2, 0).reshape(-1, 4)
            score, order = logit.sigmoid().sort(descending=True, stable=True)
            order = order[: self.per_level]
            anchors = grid_anchors(STRIDES[level], height, width, like=delta)
            boxes.append(decode_boxes(anchors[order], delta[order], RPN_STDS, size))
            scores.append(score[: self.per_level])
            levels.append(torch.full_like(order, level))
        box, score, level_of = torch.cat(boxes), torch.cat(scores), torch.cat(levels)
        full = (box[:, 2] > box[:, 0]) & (box[:, 3] > box[:, 1])
        box, score, level_of = box[full], score[full], level_of[full]
        keep = batched_nms(box, score, level_of, self.iou_threshold)[: self.limit]
        return box[keep], score[keep]
