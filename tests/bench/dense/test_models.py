"""Whole models on small backbones: odd and small images, batches, padding, no detections, the fixed path."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

pytest.importorskip("torchvision")

from bench.dense.cascade import CascadeHead
from bench.dense.detection import DetectionModel, ImageSize, spread_boxes
from bench.dense.mask_rcnn import MaskRCNNHead
from bench.dense.segmentation import SegmentationModel
from bench.dense.upernet import UperNetHead
from tests.bench.dense.heads import PADDED, SIZE, Maps, reference_model

CHANNELS = (4, 6, 8, 10)
ROI_HEADS = {
    "maskrcnn": MaskRCNNHead,
    "cascade_2fc": lambda: CascadeHead("2fc"),
    "cascade_4conv1fc": lambda: CascadeHead("4conv1fc"),
}


class Strides(nn.Module):
    """Four 1x1 convolutions of an image pooled by 4, 8, 16, 32 (sizes rounded up)."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, c, 1) for c in CHANNELS)
        self.feature_info = SimpleNamespace(channels=lambda: list(CHANNELS))

    def forward(self, x: Tensor) -> list[Tensor]:
        return [conv(F.avg_pool2d(x, s, ceil_mode=True)) for conv, s in zip(self.convs, (4, 8, 16, 32), strict=True)]


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    """Random weights; few proposals, to be quick."""
    torch.manual_seed(0)
    model = build().eval()
    if isinstance(model, DetectionModel):
        model.rpn_head.limit = 60
    return model


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 96), (100, 37)])
@torch.inference_mode()
def test_segmentation_at_any_size(size: tuple[int, int]) -> None:
    model = seeded(lambda: SegmentationModel(Strides(), UperNetHead(CHANNELS, channels=16, num_classes=5)))
    logits = model(torch.randn(2, 3, *size))
    assert logits.shape == (2, 5, *size)
    assert logits.isfinite().all()


def test_segmentation_in_training_gives_both_heads() -> None:
    torch.manual_seed(0)
    head = UperNetHead(CHANNELS, channels=16, num_classes=5)
    model = SegmentationModel(Strides(), head, num_classes=5).train()
    out = model(torch.randn(2, 3, 64, 64))
    assert {key: tuple(value.shape) for key, value in out.items()} == {"main": (2, 5, 64, 64), "aux": (2, 5, 64, 64)}
    (out["main"].mean() + 0.4 * out["aux"].mean()).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert isinstance(SegmentationModel(Strides(), head, auxiliary=False).train()(torch.randn(2, 3, 64, 64)), Tensor)


@pytest.mark.parametrize("name", ROI_HEADS)
@pytest.mark.parametrize("size", [(32, 32), (96, 160)])
@torch.inference_mode()
def test_detection_without_detections(name: str, size: tuple[int, int]) -> None:
    """A blank image and small random weights: no class reaches 0.05."""
    model = seeded(lambda: DetectionModel(Strides(), roi_head=ROI_HEADS[name]()))
    (found,) = model(torch.zeros(1, 3, *size))
    assert found.boxes.shape == (0, 4)
    assert found.scores.shape == found.labels.shape == (0,)
    assert found.masks.shape == (0, 28, 28)


@pytest.mark.parametrize("name", ROI_HEADS)
@torch.inference_mode()
def test_detection_without_proposals(name: str) -> None:
    model = seeded(lambda: DetectionModel(Strides(), roi_head=ROI_HEADS[name]()))
    with torch.no_grad():
        model.rpn_head.rpn_reg.bias[0::4] = -1e4  # every box leaves the image
    (found,) = model(torch.zeros(1, 3, 64, 64))
    assert len(found.boxes) == len(found.masks) == 0


@torch.inference_mode()
def test_detection_on_an_odd_image_in_a_padded_input() -> None:
    model = seeded(lambda: DetectionModel(Strides()))
    with torch.no_grad():
        model.roi_head.bbox_head.fc_cls.weight *= 30
    x = F.pad(torch.randn(1, 3, 51, 77), (0, 19, 0, 13))
    size = ImageSize(original=(102, 231), resized=(51, 77))
    (found,) = model(x, [size])
    assert len(found.boxes) > 20
    assert found.boxes[:, 0::2].max() <= 231
    assert found.boxes[:, 1::2].max() <= 102
    assert (found.scores.diff() <= 0).all()


@torch.inference_mode()
def test_axes_are_scaled_apart() -> None:
    model = reference_model("head_maskrcnn").float()
    model.rpn_head.limit = 60
    model.backbone.maps = [x.float() for x in model.backbone.maps]
    x = torch.zeros(1, 3, *PADDED)
    (plain,) = model(x, [ImageSize(SIZE.resized, SIZE.resized)])
    (scaled,) = model(x, [ImageSize(original=(125, 620), resized=SIZE.resized)])
    torch.testing.assert_close(scaled.boxes, plain.boxes * torch.tensor([2, 0.5, 2, 0.5]))
    assert torch.equal(scaled.scores, plain.scores)
    assert torch.equal(scaled.masks, plain.masks)


@torch.inference_mode()
def test_a_batch_equals_its_images() -> None:
    model = seeded(lambda: DetectionModel(Strides())).double()
    with torch.no_grad():
        model.roi_head.bbox_head.fc_cls.weight *= 30
    x = torch.randn(2, 3, 96, 128, dtype=torch.float64)
    sizes = [ImageSize((90, 128), (90, 128)), ImageSize((192, 200), (96, 100))]
    for i, both in enumerate(model(x, sizes)):
        (alone,) = model(x[i : i + 1], sizes[i : i + 1])
        assert len(both.boxes) == len(alone.boxes) > 0
        torch.testing.assert_close(both.boxes, alone.boxes)
        assert torch.equal(both.labels, alone.labels)


@pytest.mark.parametrize("name", ROI_HEADS)
@torch.inference_mode()
def test_fixed_path_has_fixed_shapes(name: str) -> None:
    model = seeded(lambda: DetectionModel(Strides(), roi_head=ROI_HEADS[name]()))
    decoded, scores, masks = model.fixed_path(torch.randn(1, 3, 64, 96), boxes=20, masks=7)
    assert decoded.shape == (1, 20, 4 if name == "cascade_2fc" else 320)
    assert scores.shape == (1, 20, 81)
    assert masks.shape == (1, 7, 28, 28)
    assert decoded.isfinite().all()
    torch.testing.assert_close(scores.sum(dim=-1), torch.ones(1, 20))


def test_spread_boxes_lie_in_the_image_on_all_levels() -> None:
    from bench.dense.roi import roi_levels

    boxes = spread_boxes(1000, (800, 1280))
    assert boxes.shape == (1000, 4)
    assert torch.equal(boxes, spread_boxes(1000, (800, 1280)))
    assert boxes.min() >= 0
    assert (boxes.amax(dim=0)[2:] <= torch.tensor([1280, 800])).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert roi_levels(boxes).unique().tolist() == [0, 1, 2, 3]
    assert (spread_boxes(50, (20, 9))[:, 2:] <= torch.tensor([9, 20])).all()


@torch.inference_mode()
def test_bfloat16_keeps_box_arithmetic_in_float32() -> None:
    model = seeded(lambda: DetectionModel(Strides())).bfloat16()
    decoded, scores, masks = model.fixed_path(torch.randn(1, 3, 64, 64).bfloat16(), boxes=8, masks=2)
    assert decoded.dtype == scores.dtype == masks.dtype == torch.float32
    (found,) = model(torch.zeros(1, 3, 64, 64).bfloat16())
    assert found.boxes.dtype == torch.float32


def test_a_wrong_backbone_or_size_is_refused() -> None:
    with pytest.raises(ValueError, match="feature_info"):
        SegmentationModel(nn.Identity())
    with pytest.raises(ValueError, match="gives 3"):
        DetectionModel(Maps(channels=(1, 2, 3)))
    with pytest.raises(ValueError, match="unknown box head"):
        CascadeHead("3fc")
    model = seeded(lambda: DetectionModel(Strides()))
    with pytest.raises(ValueError, match="2 images but 1 sizes"):
        model(torch.zeros(2, 3, 64, 64), [SIZE])
    with pytest.raises(ValueError, match="does not fit"):
        model(torch.zeros(1, 3, 64, 64), [ImageSize((65, 64), (65, 64))])
