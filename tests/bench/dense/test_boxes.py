"""Box decoding, thresholds, levels, anchors and proposals, where the right answer is known by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

pytest.importorskip("torchvision")

from bench.dense.anchors import base_anchors, grid_anchors
from bench.dense.boxes import decode_boxes, delta_of_class, select_detections
from bench.dense.roi import roi_features, roi_levels
from bench.dense.rpn import RPNHead

ONES = (1.0, 1.0, 1.0, 1.0)
LARGE = (10_000, 10_000)


def test_decoding_moves_then_scales_then_clips() -> None:
    boxes = torch.tensor([[10.0, 20.0, 30.0, 60.0]], dtype=torch.float64)
    deltas = torch.tensor([[1.0, -1.0, math.log(2) / 0.2, -math.log(2) / 0.2]], dtype=torch.float64)
    decoded = decode_boxes(boxes, deltas, (0.1, 0.1, 0.2, 0.2), LARGE)
    # centre (20, 40) moves by (0.1 * 20, -0.1 * 40); width 20 doubles, height 40 halves
    torch.testing.assert_close(decoded, torch.tensor([[2.0, 26.0, 42.0, 46.0]], dtype=torch.float64))
    clipped = decode_boxes(boxes, deltas, (0.1, 0.1, 0.2, 0.2), (30, 40))
    torch.testing.assert_close(clipped, torch.tensor([[2.0, 26.0, 40.0, 30.0]], dtype=torch.float64))


@pytest.mark.parametrize("sign", [1, -1])
def test_log_sizes_are_clamped_after_the_deviations(sign: int) -> None:
    boxes = torch.tensor([[100.0, 100.0, 102.0, 104.0]], dtype=torch.float64)
    limit = math.log(1000 / 16)
    for dw in (limit / 0.2, limit / 0.2 * 1.5, 1e6):
        deltas = torch.tensor([[0.0, 0.0, sign * dw, sign * dw]], dtype=torch.float64)
        x1, y1, x2, y2 = decode_boxes(boxes, deltas, (0.1, 0.1, 0.2, 0.2), LARGE)[0].tolist()
        factor = 62.5**sign
        assert x2 - x1 == pytest.approx(min(2 * factor, 2 * factor), rel=1e-12)
        assert min(y2, 1e9) - max(y1, 0) == pytest.approx(102 + 125 if sign > 0 else 4 / 62.5, rel=1e-12)


def test_class_major_deltas() -> None:
    deltas = torch.arange(2 * 3 * 4.0).reshape(2, 12)
    assert delta_of_class(deltas, torch.tensor([2, 0])).tolist() == [[8, 9, 10, 11], [12, 13, 14, 15]]
    assert delta_of_class(deltas[:, :4], torch.tensor([2, 0])) is not None
    assert delta_of_class(deltas[:, :4], torch.tensor([2, 0])).tolist() == deltas[:, :4].tolist()


def scores_of(*foreground: float) -> Tensor:
    """(1, K + 1): the foreground scores, the rest to the background."""
    return torch.tensor([[*foreground, 1 - sum(foreground)]], dtype=torch.float64)


def test_score_must_exceed_the_threshold() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10]], dtype=torch.float64)
    above = math.nextafter(0.05, 1)
    _, scores, labels = select_detections(boxes, scores_of(0.05, above, 0.04))
    assert labels.tolist() == [1]
    assert scores.tolist() == [above]


def test_score_threshold_in_float32() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10]])
    assert len(select_detections(boxes, scores_of(0.05).float())[0]) == 0


def test_background_is_last_and_never_detected() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10]])
    assert len(select_detections(boxes, torch.tensor([[0.01, 0.02, 0.97]]))[0]) == 0


def test_one_roi_may_give_several_classes_each_with_its_box() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10, 50, 50, 60, 60]])
    box, _, labels = select_detections(boxes, torch.tensor([[0.3, 0.6, 0.1]]))
    assert labels.tolist() == [1, 0]
    assert box.tolist() == [[50, 50, 60, 60], [0, 0, 10, 10]]
    shared, _, labels = select_detections(boxes[:, :4], torch.tensor([[0.3, 0.6, 0.1]]))
    assert labels.tolist() == [1, 0]
    assert shared.tolist() == [[0, 0, 10, 10]] * 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_suppression_needs_more_than_the_threshold_and_the_same_class(dtype: torch.dtype) -> None:
    # IoU with the first: 100 / 200 = 0.5 exactly; 108 / 192 above; the same box in another class
    boxes = torch.tensor([[0, 0, 10, 15], [0, 5, 10, 20], [0, 4.2, 10, 19.2], [0, 0, 10, 15]], dtype=dtype)
    scores = torch.tensor([[0.9, 0, 0.1], [0.8, 0, 0.2], [0.7, 0, 0.3], [0, 0.6, 0.4]], dtype=dtype)
    box, _, labels = select_detections(boxes, scores)
    assert labels.tolist() == [0, 0, 1]
    torch.testing.assert_close(box, boxes[[0, 1, 3]])


def test_best_hundred_by_falling_score() -> None:
    x = torch.arange(300.0)[:, None] * 20
    boxes = torch.cat([x, x * 0, x + 10, x * 0 + 10], dim=1)
    scores = torch.linspace(0.1, 0.9, 300)[:, None]
    _, kept, _ = select_detections(boxes, torch.cat([scores, 1 - scores], dim=1))
    assert len(kept) == 100
    torch.testing.assert_close(kept, scores[:, 0].flip(0)[:100])


def test_no_rows() -> None:
    box, score, label = select_detections(torch.zeros(0, 8), torch.zeros(0, 3))
    assert (box.shape, score.shape, label.shape) == ((0, 4), (0,), (0,))
    assert decode_boxes(torch.zeros(0, 4), torch.zeros(0, 12), ONES, LARGE).shape == (0, 12)


# sides of a square box, and its level: 56 * 2^k is the first of level k
@pytest.mark.parametrize(
    ("side", "level"),
    [
        (0, 0),
        (1, 0),
        (55, 0),
        (56, 0),
        (111.9, 0),
        (112, 1),
        (223.9, 1),
        (224, 2),
        (447.9, 2),
        (448, 3),
        (896, 3),
        (5000, 3),
    ],
)
def test_levels(side: float, level: int) -> None:
    box = torch.tensor([[3.0, 7.0, 3 + side, 7 + side]], dtype=torch.float64)
    assert roi_levels(box).tolist() == [level]


def test_level_is_of_the_area_with_its_small_offset() -> None:
    assert roi_levels(torch.tensor([[0.0, 0, 448, 28]], dtype=torch.float64)).tolist() == [1]  # side 112
    just_below = 112 * (1 - 1e-7)  # within 1e-6 of the next level: taken up
    assert roi_levels(torch.tensor([[0.0, 0, just_below, 112]], dtype=torch.float64)).tolist() == [1]


def test_features_come_from_the_level_of_the_box_in_the_order_of_the_boxes() -> None:
    maps = [torch.full((1, 2, 1024 // s, 1024 // s), float(s)) for s in (4, 8, 16, 32, 64)]
    boxes = torch.tensor([[100.0, 100, 100 + s, 100 + s] for s in (500, 30, 300, 150, 40)])
    assert roi_features(maps, boxes, 7)[:, 0, 3, 3].tolist() == [32, 4, 16, 8, 4]
    assert roi_features(maps, boxes[:0], 7).shape == (0, 2, 7, 7)


def test_base_anchors() -> None:
    anchors = base_anchors(4)
    assert anchors.dtype == torch.float32
    root = math.sqrt(2)
    want = [
        [-16 * root, -8 * root, 16 * root, 8 * root],
        [-16, -16, 16, 16],
        [-8 * root, -16 * root, 8 * root, 16 * root],
    ]
    torch.testing.assert_close(anchors, torch.tensor(want))


def test_grid_is_by_row_column_anchor_without_half_a_stride() -> None:
    anchors = grid_anchors(8, 2, 3, like=torch.zeros(1, dtype=torch.float64)).reshape(2, 3, 3, 4)
    centres = (anchors[..., :2] + anchors[..., 2:]) / 2
    assert centres[1, 2, 1].tolist() == [16, 8]
    assert centres[0, 0, 0].tolist() == [0, 0]


def rpn_outputs(levels: int = 5, side: int = 4) -> list[tuple[Tensor, Tensor]]:
    """Level maps of falling size whose anchors all score sigmoid(-10), without deltas."""
    sides = [max(1, side >> i) for i in range(levels)]
    return [(torch.full((1, 3, s, s), -10.0), torch.zeros(1, 12, s, s)) for s in sides]


def test_regression_channels_are_of_one_anchor_together() -> None:
    outputs = rpn_outputs()
    cls, reg = outputs[2]
    cls[0, 1, 0, 0] = 5  # the square anchor (side 128) about (0, 0)
    reg[0, 4:8, 0, 0] = torch.tensor([0.5, 0.25, 0.0, math.log(0.5)])
    boxes, scores = RPNHead().propose(outputs, 0, (1000, 1000))
    torch.testing.assert_close(boxes[0], torch.tensor([0.0, 0.0, 128.0, 64.0]))
    torch.testing.assert_close(scores[0], torch.tensor(5.0).sigmoid())


def test_empty_proposals_are_dropped() -> None:
    outputs = rpn_outputs()
    cls, reg = outputs[0]
    cls[0, 1, 0, 0] = 9  # moved out of the image to the left: clipped to no width
    reg[0, 4, 0, 0] = -2
    cls[0, 1, 1, 1] = 8  # above the image: no height
    reg[0, 5, 1, 1] = -2
    cls[0, 1, 2, 2] = 7  # one pixel is left: kept
    reg[0, 4, 2, 2] = -(8 + 15) / 32
    boxes, scores = RPNHead().propose(outputs, 0, (1000, 1000))
    assert (boxes[:, 2] > boxes[:, 0]).all()
    assert (boxes[:, 3] > boxes[:, 1]).all()
    torch.testing.assert_close(scores[0], torch.tensor(7.0).sigmoid())
    torch.testing.assert_close(boxes[0], torch.tensor([0.0, 0.0, 1.0, 24.0]))


def test_all_proposals_empty() -> None:
    outputs = [(cls, reg.index_fill(1, torch.tensor([0, 4, 8]), -1e4)) for cls, reg in rpn_outputs()]
    boxes, scores = RPNHead().propose(outputs, 0, (64, 64))
    assert (boxes.shape, scores.shape) == ((0, 4), (0,))


def test_proposals_are_clipped_to_the_image_without_padding() -> None:
    boxes, _ = RPNHead().propose(rpn_outputs(side=32), 0, (100, 75))
    assert boxes[:, 0::2].max() == 75
    assert boxes[:, 1::2].max() == 100


def two_equal_boxes(same_level: bool) -> list[tuple[Tensor, Tensor]]:
    """Two anchors, decoded to the box (0, 0, 32, 32), alone above the rest's scores."""
    outputs = rpn_outputs()
    cls, reg = outputs[0]
    cls[0, 1, 0, 0] = 5
    reg[0, 4:6, 0, 0] = 0.5
    other = (0, 1) if same_level else (1, 0)
    cls, reg = outputs[other[0]]
    cls[0, 1, 0, other[1]] = 4
    stride, side = (4, 32) if same_level else (8, 64)
    x = other[1] * stride
    reg[0, 4:8, 0, other[1]] = torch.tensor([(16 - x) / side, 16 / side, math.log(32 / side), math.log(32 / side)])
    return outputs


@pytest.mark.parametrize(("same_level", "survivors"), [(True, 1), (False, 2)])
def test_suppression_is_within_a_level(same_level: bool, survivors: int) -> None:
    _, scores = RPNHead().propose(two_equal_boxes(same_level), 0, (1000, 1000))
    assert (scores > 0.5).sum() == survivors


def test_best_of_each_level_then_best_of_all() -> None:
    torch.manual_seed(0)
    outputs = [
        (torch.randn(1, 3, 8 >> min(i, 2), 8 >> min(i, 2)), torch.zeros(1, 12, 8 >> min(i, 2), 8 >> min(i, 2)))
        for i in range(5)
    ]
    few = RPNHead(per_level=5, limit=7, iou_threshold=1.0)
    _, scores = few.propose(outputs, 0, (1000, 1000))
    best = (
        torch.cat([cls.flatten().sort(descending=True).values[:5] for cls, _ in outputs]).sort(descending=True).values
    )
    torch.testing.assert_close(scores, best[:7].sigmoid())
