"""What a dense head asks of its backbone.

A backbone is any module that returns maps of strides 4, 8, 16, 32 and has `feature_info.channels()`, as timm's models
with `features_only=True` do.
"""

from __future__ import annotations

from torch import nn


def feature_channels(backbone: nn.Module) -> list[int]:
    """Channels of the four maps.

    Raises:
        ValueError: where the backbone does not say, or gives another number of maps.
    """
    info = getattr(backbone, "feature_info", None)
    if info is None or not hasattr(info, "channels"):
        raise ValueError(f"{type(backbone).__name__} is no dense backbone: it has no feature_info.channels()")
    channels = [int(c) for c in info.channels()]
    if len(channels) != 4:
        raise ValueError(
            f"a dense backbone gives 4 maps (strides 4, 8, 16, 32); {type(backbone).__name__} gives {len(channels)}"
        )
    return channels
