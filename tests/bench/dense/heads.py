"""Heads with the reference weights, and the inputs of the reference values."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.golden.golden_state import tensor_for
from tests.golden_tools import image, manifest

pytest.importorskip("torchvision")

from bench.dense.cascade import CascadeHead
from bench.dense.detection import DetectionModel, ImageSize
from bench.dense.mask_rcnn import MaskRCNNHead
from bench.dense.segmentation import SegmentationModel

CHANNELS = (64, 128, 384, 640)
SIZE = ImageSize(original=(200, 248), resized=(250, 310))
PADDED = (256, 320)
ROIS = ((10, 20, 90, 120), (0, 0, 310, 250), (100.5, 50.25, 140.75, 80.5), (200, 100, 300, 240))


class Maps(nn.Module):
    """A stand-in for a backbone: returns the four maps that it holds, whatever the image."""

    def __init__(self, maps: list[Tensor] | None = None, channels: tuple[int, ...] = CHANNELS) -> None:
        super().__init__()
        self.maps = maps
        self.feature_info = SimpleNamespace(channels=lambda: list(channels))

    def forward(self, x: Tensor) -> list[Tensor]:
        assert self.maps is not None
        return self.maps


def reference_maps(height: int, width: int) -> list[Tensor]:
    return [image(10 + i, (1, c, height // 4 // 2**i, width // 4 // 2**i)) for i, c in enumerate(CHANNELS)]


def reference_state(name: str) -> dict[str, Tensor]:
    """Weights of the reference values; scores are spread so that something is detected."""
    gain = {"rpn_cls.weight": 4, "conv_logits.weight": 4, "fc_cls.weight": 12 if name == "head_maskrcnn" else 60}
    state = {}
    for key, shape in manifest(name).items():
        factor = gain.get(".".join(key.split(".")[-2:]), 1)
        value = tensor_for(key, shape)
        state[key] = torch.from_numpy(value * np.float32(factor) if factor != 1 else value)
    return state


def reference_model(name: str) -> nn.Module:
    """float64, evaluation mode, strictly loaded; the backbone is `Maps` of the reference inputs."""
    if name == "head_upernet":
        model: nn.Module = SegmentationModel(Maps(reference_maps(128, 192)))
    else:
        roi_heads = {
            "head_maskrcnn": MaskRCNNHead,
            "head_cascade_4conv1fc": lambda: CascadeHead("4conv1fc"),
            "head_cascade_2fc": lambda: CascadeHead("2fc"),
        }
        model = DetectionModel(Maps(reference_maps(*PADDED)), roi_head=roi_heads[name]())
    model.load_state_dict(reference_state(name), strict=True)
    return model.eval().double()
