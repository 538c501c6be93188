"""The cascade's flow between stages, with heads whose outputs are set by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("torchvision")

import bench.dense.cascade
from bench.dense.boxes import decode_boxes
from bench.dense.cascade import STAGE_STDS, CascadeHead, ensemble

SIZE = (1000, 1000)
START = torch.tensor([[100.0, 100.0, 200.0, 200.0]], dtype=torch.float64)


class Says(nn.Module):
    """A box head that answers every region with the same logits and deltas."""

    def __init__(self, logits: list[float], deltas: list[list[float]]) -> None:
        super().__init__()
        self.logits = torch.tensor(logits, dtype=torch.float64)
        self.deltas = torch.tensor(deltas, dtype=torch.float64).flatten()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.logits.expand(len(x), -1), self.deltas.expand(len(x), -1)


def maps() -> list[Tensor]:
    return [torch.zeros(1, 256, 1024 // s, 1024 // s, dtype=torch.float64) for s in (4, 8, 16, 32, 64)]


def cascade(*heads: Says) -> CascadeHead:
    head = CascadeHead("2fc", num_classes=2)
    head.bbox_head = nn.ModuleList(heads)
    return head


def test_each_stage_refines_with_its_own_best_class() -> None:
    right, down, grow = [1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 1.0, 1.0]
    head = cascade(
        Says([3, 0, 9], [right, down]),  # class 0, though the background is higher
        Says([0, 3, 9], [right, down]),  # class 1
        Says([3, 0, 0], [grow, right]),
    )
    boxes, scores = head.score_boxes(maps(), START, SIZE)
    first = decode_boxes(START, torch.tensor([right], dtype=torch.float64), STAGE_STDS[0], SIZE)
    assert first.tolist() == [[110, 100, 210, 200]]
    second = decode_boxes(first, torch.tensor([down], dtype=torch.float64), STAGE_STDS[1], SIZE)
    assert second.tolist() == [[110, 105, 210, 205]]
    half = 50 * math.exp(0.067)
    want = [160 - half, 155 - half, 160 + half, 155 + half, 110 + 3.3, 105, 210 + 3.3, 205]
    torch.testing.assert_close(boxes, torch.tensor([want], dtype=torch.float64))
    mean = torch.tensor([[2.0, 1.0, 6.0]], dtype=torch.float64)
    torch.testing.assert_close(scores, mean.softmax(dim=1))


def test_refined_boxes_are_clipped_between_stages() -> None:
    out, back = [20.0, 0, 0, 0], [-20.0, 0, 0, 0]
    head = cascade(*(Says([1, 0, 0], [delta, delta]) for delta in (out, back, [0.0] * 4)))
    boxes, _ = head.score_boxes(maps(), START, (300, 250))
    # stage 0 moves by 200 and is clipped to 250: no width, so stage 1 cannot move it back
    assert boxes[0, :4].tolist() == [250, 100, 250, 200]


def test_class_agnostic_boxes() -> None:
    right = [[1.0, 0, 0, 0]]
    boxes, scores = cascade(*(Says([0, 1, 0], right) for _ in range(3))).score_boxes(maps(), START, SIZE)
    assert boxes.shape == (1, 4)
    torch.testing.assert_close(boxes, torch.tensor([[118.3, 100, 218.3, 200]], dtype=torch.float64))
    assert scores.shape == (1, 3)


def test_logits_are_averaged_not_probabilities() -> None:
    logits = [torch.tensor([[9.0, 0.0]]), torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 3.0]])]
    torch.testing.assert_close(ensemble(logits), torch.tensor([[3.0, 1.0]]).softmax(dim=1))


def test_each_stage_reads_features_of_its_own_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    def features(maps: list[Tensor], boxes: Tensor, size: int) -> Tensor:
        seen.append(boxes.clone())
        return torch.zeros(len(boxes), 256, size, size, dtype=torch.float64)

    monkeypatch.setattr(bench.dense.cascade, "roi_features", features)
    right = [[1.0, 0, 0, 0]] * 2
    cascade(*(Says([1, 0, 0], right) for _ in range(3))).score_boxes(maps(), START, SIZE)
    assert [box[0, 0].item() for box in seen] == [100, 110, 115]


def test_masks_are_the_mean_of_probabilities() -> None:
    class Constant(nn.Module):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.value = value

        def forward(self, x: Tensor) -> Tensor:
            logits = torch.full((len(x), 2, 28, 28), -50.0, dtype=torch.float64)
            logits[:, 1] = self.value
            return logits

    head = CascadeHead("2fc", num_classes=2)
    head.mask_head = nn.ModuleList(Constant(v) for v in (4.0, 0.0, -1.0))
    drawn = head.masks(maps(), START, torch.tensor([1]))
    want = sum(1 / (1 + math.exp(-v)) for v in (4.0, 0.0, -1.0)) / 3
    torch.testing.assert_close(drawn, torch.full((1, 28, 28), want, dtype=torch.float64))
