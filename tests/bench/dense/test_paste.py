"""Pasting of masks, where the covered pixels are known."""

from __future__ import annotations

import pytest
import torch

from bench.dense.paste import paste_mask


def test_a_full_mask_fills_its_box() -> None:
    mask = paste_mask(torch.ones(28, 28), torch.tensor([10.0, 20.0, 66.0, 48.0]), (60, 80))
    want = torch.zeros(60, 80, dtype=torch.bool)
    want[20:48, 10:66] = True
    assert torch.equal(mask, want)


def test_a_quarter() -> None:
    probabilities = torch.zeros(28, 28)
    probabilities[:14, 14:] = 1  # top right
    mask = paste_mask(probabilities, torch.tensor([0.0, 0.0, 56.0, 28.0]), (40, 60))
    want = torch.zeros(40, 60, dtype=torch.bool)
    want[:14, 28:56] = True
    assert torch.equal(mask, want)


@pytest.mark.parametrize(("value", "set_"), [(0.5, True), (0.4999, False)])
def test_the_threshold_itself_is_set(value: float, set_: bool) -> None:
    mask = paste_mask(torch.full((28, 28), value), torch.tensor([0.0, 0.0, 28.0, 28.0]), (28, 28))
    assert mask[1:-1, 1:-1].all() == set_
    assert mask.any() == set_


def test_pixels_are_sampled_at_their_centres() -> None:
    # one pixel wide box between two pixels: neither centre (9.5, 10.5) is inside by more than the border itself
    inside = paste_mask(torch.ones(28, 28), torch.tensor([9.4, 0.0, 10.4, 10.0]), (10, 20))
    assert inside.any(dim=0).nonzero().flatten().tolist() == [9]


@pytest.mark.parametrize("box", [(5, 5, 5, 9), (5, 5, 9, 5), (9, 9, 5, 5), (100, 100, 120, 120), (-30, -30, -10, -10)])
def test_boxes_that_cover_nothing(box: tuple[float, ...]) -> None:
    assert not paste_mask(torch.ones(28, 28), torch.tensor(box, dtype=torch.float32), (20, 20)).any()


def test_a_box_that_leaves_the_image_is_cut() -> None:
    assert paste_mask(torch.ones(28, 28), torch.tensor([-10.0, -10.0, 30.0, 30.0]), (20, 20)).all()


def test_only_the_box_is_sampled_but_nothing_is_lost() -> None:
    torch.manual_seed(0)
    for _ in range(50):
        low = torch.rand(2) * 30
        box = torch.cat([low, low + torch.rand(2) * 25 + 0.2])
        probabilities = torch.rand(28, 28)
        cut = paste_mask(probabilities, box, (40, 44))
        y, x = torch.arange(40.0) + 0.5, torch.arange(44.0) + 0.5
        grid_x = (x - box[0]) / (box[2] - box[0]) * 2 - 1
        grid_y = (y - box[1]) / (box[3] - box[1]) * 2 - 1
        grid = torch.stack(torch.meshgrid(grid_x, grid_y, indexing="xy"), dim=-1)[None]
        whole = torch.nn.functional.grid_sample(probabilities[None, None], grid, align_corners=False)[0, 0] >= 0.5
        assert torch.equal(cut, whole)


@pytest.mark.parametrize(("box", "pixels"), [([0.0, 0, 4, 4], 16), ([2.0, 2, 5, 6], 12)])
def test_a_sure_mask_fills_its_box(box: list[float], pixels: int) -> None:
    assert paste_mask(torch.ones(28, 28), torch.tensor(box), (8, 8)).sum() == pixels
