"""Feature pyramid network (Lin et al., CVPR 2017)."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from bench.dense.layers import ConvModule


class FPN(nn.Module):
    """Four maps of strides 4..32 to five of `channels` channels, strides 4..64.

    The fifth is the fourth output, after its 3x3, subsampled by two; only the RPN reads it.
    """

    def __init__(self, in_channels: Sequence[int], channels: int = 256) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(ConvModule(c, channels, 1, norm=False, relu=False) for c in in_channels)
        self.fpn_convs = nn.ModuleList(ConvModule(channels, channels, 3, norm=False, relu=False) for _ in in_channels)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, maps, strict=True)]
        for i in range(len(laterals) - 1, 0, -1):
            below = laterals[i - 1]
            laterals[i - 1] = below + F.interpolate(laterals[i], size=below.shape[-2:], mode="nearest")
        outputs = [conv(x) for conv, x in zip(self.fpn_convs, laterals, strict=True)]
        outputs.append(outputs[-1][:, :, ::2, ::2])
        return outputs
