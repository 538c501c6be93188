"""The whole segmentation model, named as released checkpoints are: `backbone.`, `decode_head.`, `auxiliary_head.`."""

from __future__ import annotations

from torch import Tensor, nn

from bench.dense.features import feature_channels
from bench.dense.layers import resize
from bench.dense.upernet import FCNHead, UperNetHead


class SegmentationModel(nn.Module):
    """Backbone and UperNet; in training mode the auxiliary head too.

    Args:
        backbone: see `bench.dense.features`.
        decode_head: UperNet for the backbone's channels where None.
        auxiliary: with the auxiliary head (in released files; used in training only).
        num_classes: channels of the logits, for heads made here.
    """

    def __init__(
        self,
        backbone: nn.Module,
        decode_head: nn.Module | None = None,
        auxiliary: bool = True,
        num_classes: int = 150,
    ) -> None:
        super().__init__()
        channels = feature_channels(backbone)
        self.backbone = backbone
        self.decode_head = decode_head or UperNetHead(channels, num_classes=num_classes)
        self.auxiliary_head = FCNHead(channels[2], num_classes=num_classes) if auxiliary else None

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        """(B, 3, H, W) -> logits (B, num_classes, H, W); in training mode with the auxiliary head `main` and `aux`."""
        size = (x.shape[-2], x.shape[-1])
        maps = self.backbone(x)
        logits = resize(self.decode_head(maps), size)
        if self.training and self.auxiliary_head is not None:
            return {"main": logits, "aux": resize(self.auxiliary_head(maps), size)}
        return logits
