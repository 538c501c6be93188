"""UperNet (Xiao et al., ECCV 2018) and its auxiliary FCN head, as the ADE20K figures use them.

Shapes: four maps of strides 4, 8, 16, 32 and C1..C4 channels in, logits of stride 4 (auxiliary: 16) out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bench.dense.layers import ConvModule, resize

POOL_SIZES = (1, 2, 3, 6)


class UperNetHead(nn.Module):
    """Pyramid pooling on the last map, a top-down path, and all four levels fused at stride 4.

    Args:
        in_channels: C1..C4 of the backbone.
        channels: width of the head.
        num_classes: channels of the logits.
    """

    def __init__(self, in_channels: Sequence[int], channels: int = 512, num_classes: int = 150) -> None:
        super().__init__()
        *lower, last = in_channels
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(size), ConvModule(last, channels, 1)) for size in POOL_SIZES
        )
        self.bottleneck = ConvModule(last + len(POOL_SIZES) * channels, channels, 3)
        self.lateral_convs = nn.ModuleList(ConvModule(c, channels, 1) for c in lower)
        self.fpn_convs = nn.ModuleList(ConvModule(channels, channels, 3) for _ in lower)
        self.fpn_bottleneck = ConvModule(len(in_channels) * channels, channels, 3)
        self.dropout = nn.Dropout2d(0.1)
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)

    def pyramid_pooling(self, x: Tensor) -> Tensor:
        size = (x.shape[-2], x.shape[-1])
        return self.bottleneck(torch.cat([x, *(resize(pool(x), size) for pool in self.psp_modules)], dim=1))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits (B, num_classes, H/4, W/4)."""
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, maps, strict=False)]
        laterals.append(self.pyramid_pooling(maps[-1]))
        for i in range(len(laterals) - 1, 0, -1):  # all sums come before the first 3x3
            below = laterals[i - 1]
            laterals[i - 1] = below + resize(laterals[i], (below.shape[-2], below.shape[-1]))
        levels = [conv(x) for conv, x in zip(self.fpn_convs, laterals, strict=False)]
        levels.append(laterals[-1])  # pyramid pooling has had its 3x3
        size = (levels[0].shape[-2], levels[0].shape[-1])
        x = self.fpn_bottleneck(torch.cat([resize(level, size) for level in levels], dim=1))
        return self.conv_seg(self.dropout(x))


class FCNHead(nn.Module):
    """Auxiliary head of one 3x3 unit on the stride-16 map; its loss counts 0.4, and it is unused at inference."""

    def __init__(self, in_channels: int, channels: int = 256, num_classes: int = 150, level: int = 2) -> None:
        super().__init__()
        self.level = level
        self.convs = nn.ModuleList([ConvModule(in_channels, channels, 3)])
        self.dropout = nn.Dropout2d(0.1)
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits (B, num_classes, H/16, W/16)."""
        x = maps[self.level]
        for conv in self.convs:
            x = conv(x)
        return self.conv_seg(self.dropout(x))
