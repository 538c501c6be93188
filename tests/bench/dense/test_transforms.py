"""Sizes and pixels at test time, where they are known by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench.dense.transforms import (
    MULTI_SCALES,
    SegmentationTest,
    detection_input,
    fitted_size,
    multiple_size,
    normalise,
    resize_pixels,
    segmentation_input,
)


@pytest.mark.parametrize(
    ("size", "limits", "want"),
    [
        ((480, 640), (1333, 800), (800, 1067)),  # 1066.67 rounds up
        ((640, 480), (1333, 800), (1067, 800)),
        ((427, 640), (1333, 800), (800, 1199)),  # 1199.06 down
        ((200, 1000), (1333, 800), (267, 1333)),  # the long side decides: 266.6
        ((512, 683), (2048, 512), (512, 683)),
        ((100, 1000), (2048, 512), (205, 2048)),  # 204.8
        ((1, 5000), (1333, 800), (1, 1333)),
    ],
)
def test_fitted_size(size: tuple[int, int], limits: tuple[int, int], want: tuple[int, int]) -> None:
    assert fitted_size(size, limits) == want


def test_multiple_size() -> None:
    assert multiple_size((512, 683)) == (512, 704)
    assert multiple_size((1, 33)) == (32, 64)


def test_bilinear_pixels_by_hand() -> None:
    row = np.array([[0, 100]], dtype=np.uint8)[..., None].repeat(3, axis=2)
    assert resize_pixels(row, (1, 4))[0, :, 0].tolist() == [0, 25, 75, 100]
    row = np.array([[0, 0, 10, 1, 2, 2]], dtype=np.uint8)[..., None].repeat(3, axis=2)
    # halved without antialiasing: means of the two middle pixels, halves rounded up
    assert resize_pixels(row, (1, 3))[0, :, 0].tolist() == [0, 6, 2]
    same = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert resize_pixels(same, (2, 2)) is same


def test_bicubic_overshoot_is_cut_and_the_modes_differ() -> None:
    edge = np.zeros((4, 8, 3), dtype=np.uint8)
    edge[:, 4:] = 255
    cubic, linear = resize_pixels(edge, (4, 16), "bicubic"), resize_pixels(edge, (4, 16), "bilinear")
    assert not np.array_equal(cubic, linear)
    assert cubic[0, :5, 0].tolist() == [0] * 5
    assert cubic[0, -5:, 0].tolist() == [255] * 5


def test_normalise() -> None:
    x = normalise(np.array([[[123, 116, 103], [255, 0, 0]]], dtype=np.uint8))
    assert x.shape == (3, 1, 2)
    torch.testing.assert_close(x[:, 0, 1], torch.tensor([(255 - 123.675) / 58.395, -116.28 / 57.12, -103.53 / 57.375]))


def test_detection_pads_with_zeros_after_normalising() -> None:
    x, size = detection_input(np.full((480, 640, 3), 9, dtype=np.uint8))
    assert size == (800, 1067)
    assert x.shape == (3, 800, 1088)
    assert (x[:, :, 1067:] == 0).all()
    assert (x[:, :, :1067] != 0).all()


def test_segmentation_resizes_to_a_multiple_instead_of_padding() -> None:
    image = np.full((300, 400, 3), 200, dtype=np.uint8)
    x = segmentation_input(image, SegmentationTest())
    assert x.shape == (3, 512, 704)
    assert x[0].unique().numel() == 1  # no border
    assert segmentation_input(image, SegmentationTest(), scale=0.5).shape == (3, 256, 352)


def test_mirrored_views() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (64, 90, 3), dtype=np.uint8)
    test = SegmentationTest("bicubic", MULTI_SCALES, flip=True)
    assert len(test.views) == 12
    assert torch.equal(segmentation_input(image, test, flipped=True).flip(-1), segmentation_input(image, test))
    assert not torch.equal(segmentation_input(image, test), segmentation_input(image, SegmentationTest()))
