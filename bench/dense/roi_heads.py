"""The networks that read a region's features: box heads of both kinds, and the mask head."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from bench.dense.layers import ConvModule

BOX_SIZE, MASK_SIZE = 7, 14
"""Sides of the RoIAlign outputs that the box and mask heads read."""

BOX_HEADS = ("2fc", "4conv1fc")


class BoxHead(nn.Module):
    """Class logits and box deltas of each region.

    Args:
        kind: "2fc" (two linear layers) or "4conv1fc" (four 3x3 with BN, one linear layer).
        num_classes: foreground classes K.
        class_agnostic: one box a region instead of one a class.
        channels: C of the features.

    Raises:
        ValueError: for another kind.
    """

    def __init__(
        self, kind: str = "2fc", num_classes: int = 80, class_agnostic: bool = False, channels: int = 256
    ) -> None:
        super().__init__()
        if kind not in BOX_HEADS:
            raise ValueError(f"unknown box head {kind!r}: give one of {', '.join(BOX_HEADS)}")
        width, flat = 1024, channels * BOX_SIZE**2
        convs = 4 if kind == "4conv1fc" else 0
        self.shared_convs = nn.ModuleList(ConvModule(channels, channels, 3) for _ in range(convs))
        sizes = [(flat, width)] if kind == "4conv1fc" else [(flat, width), (width, width)]
        self.shared_fcs = nn.ModuleList(nn.Linear(*size) for size in sizes)
        self.fc_cls = nn.Linear(width, num_classes + 1)
        self.fc_reg = nn.Linear(width, 4 if class_agnostic else 4 * num_classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(R, C, 7, 7) -> logits (R, K + 1), background last, and deltas (R, 4 K) class-major or (R, 4)."""
        for conv in self.shared_convs:
            x = conv(x)
        x = x.flatten(1)
        for linear in self.shared_fcs:
            x = F.relu(linear(x), inplace=True)
        return self.fc_cls(x), self.fc_reg(x)


class MaskHead(nn.Module):
    """Four 3x3 and ReLU, an upsampling by two, one mask a class: (R, C, 14, 14) -> logits (R, K, 28, 28)."""

    def __init__(self, num_classes: int = 80, channels: int = 256) -> None:
        super().__init__()
        self.convs = nn.ModuleList(ConvModule(channels, channels, 3, norm=False) for _ in range(4))
        self.upsample = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.conv_logits = nn.Conv2d(channels, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = conv(x)
        return self.conv_logits(F.relu(self.upsample(x), inplace=True))
