"""Mean IoU of drawn maps by hand, through the whole test-time path, and the paired interval."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("torchvision")

from bench.cli import BadInput
from bench.dense.categories import of_pixels
from bench.dense.data import ADE20K
from bench.dense.evaluation import Pass, Place, evaluate_ade20k, segment
from bench.dense.miou import from_row, image_counts, paired_difference, score, to_row
from bench.dense.transforms import MULTI_SCALES, SegmentationTest
from bench.evaluation.files import UnreadableImage
from bench.torchrun import Workers
from tests.bench.dense.trees import ReadsLabels, write_ade20k


def test_counts_and_scores_by_hand() -> None:
    label = of_pixels(None).pixels(np.array([[1, 1, 2, 2], [0, 0, 3, 3]], dtype=np.uint8))
    assert label.tolist() == [[0, 0, 1, 1], [255, 255, 2, 2]]
    prediction = np.array([[0, 1, 1, 1], [7, 0, 2, 3]])  # the two pixels of label "other" don't count
    counts = image_counts(prediction, label)
    assert counts[:, :4].tolist() == [[1, 2, 1, 0], [1, 3, 1, 1], [2, 2, 2, 0]]
    assert counts.sum() == 4 + 6 + 6
    scores = score(counts)
    assert scores.miou == pytest.approx(100 * (1 / 2 + 2 / 3 + 1 / 2 + 0) / 4)
    assert scores.macc == pytest.approx(100 * (1 / 2 + 1 + 1 / 2) / 3)
    assert scores.aacc == pytest.approx(100 * 4 / 6)
    assert np.array_equal(from_row(to_row(counts)), counts)


def test_sums_are_over_the_set_not_means_over_images() -> None:
    small = image_counts(np.array([[0]]), np.array([[1]], dtype=np.uint8))
    large = image_counts(np.full((3, 3), 1), np.full((3, 3), 1, dtype=np.uint8))
    assert score(small + large).miou == pytest.approx(100 * (0 + 9 / 10) / 2)


def test_nothing_labelled() -> None:
    assert np.isnan(score(image_counts(np.zeros((2, 2), int), np.full((2, 2), 255, dtype=np.uint8))).miou)


def blocks(seed: int, size: tuple[int, int] = (4, 6), classes: tuple[int, ...] = (10, 60, 110, 150)) -> np.ndarray:
    """A label map of 64x64 blocks, far enough from each other in grey for JPEG."""
    rng = np.random.default_rng(seed)
    return rng.choice(np.array(classes, dtype=np.uint8), size).repeat(64, axis=0).repeat(64, axis=1)


def counts_of(root: Path, model: torch.nn.Module, folder: Path, test: SegmentationTest) -> dict[str, np.ndarray]:
    run = evaluate_ade20k(model, ADE20K.open(root), test, Place(), Pass(folder, {"test": str(folder)}, Workers()))
    assert not run.unreadable
    return {image: from_row(row["counts"]) for image, row in run.rows.items()}


def test_a_perfect_and_a_confused_model(tmp_path: Path) -> None:
    labels = {f"ADE_val_{i}": blocks(i) for i in range(3)}
    root = write_ade20k(tmp_path / "data", labels)
    single = SegmentationTest()
    perfect = score(sum(counts_of(root, ReadsLabels(), tmp_path / "a", single).values()))
    # a border's pixels may read as the grey between two blocks: at most 8 pixels wide along each of the 64-pixel blocks
    assert perfect.aacc > 100 * (56 / 64) ** 2
    for name, label in labels.items():
        found = segment(ReadsLabels(), ADE20K.open(root).image(name), single, Place())
        inner = np.zeros((64, 64), dtype=bool)
        inner[4:-4, 4:-4] = True
        inner = np.tile(inner, (4, 6))
        assert np.array_equal(found[inner] + 1, label[inner])
    confused = sum(counts_of(root, ReadsLabels({9: 59}), tmp_path / "b", single).values())
    assert confused[0, 9] == confused[0, 59] == 0  # never right where it is confused
    right = sum(counts_of(root, ReadsLabels(), tmp_path / "a", single).values())
    assert np.array_equal(confused[:, [109, 149]], right[:, [109, 149]])


def test_constant_images_give_exact_scores(tmp_path: Path) -> None:
    """Images of one label each: resizing changes nothing, so every number is known."""
    sizes = {"a": (5, (4, 500)), "b": (5, (3, 517)), "c": (77, (320, 4)), "d": (0, (2, 450))}  # thin: they are enlarged
    labels = {name: np.full(size, label, dtype=np.uint8) for name, (label, size) in sizes.items()}
    root = write_ade20k(tmp_path / "data", labels)
    for i, test in enumerate(
        (SegmentationTest(), SegmentationTest("bicubic"), SegmentationTest("bicubic", (0.5, 1.0), True))
    ):
        counts = sum(counts_of(root, ReadsLabels(), tmp_path / f"perfect{i}", test).values())
        assert counts[0, 4] == 40 * 50 + 33 * 47
        assert (score(counts).miou, score(counts).aacc) == (100, 100)
    half = sum(counts_of(root, ReadsLabels({76: 4}), tmp_path / "half", SegmentationTest()).values())
    # 5 is answered as 77 and 77 as 5: both classes have no hit
    assert score(half).miou == 0
    other = sum(counts_of(root, ReadsLabels({76: 99}), tmp_path / "other", SegmentationTest()).values())
    # 77 (1280 pixels) is answered as 100: classes 5 right, 77 and 100 without a hit
    assert score(other).miou == pytest.approx(100 / 3)
    assert score(other).aacc == pytest.approx(100 * (2000 + 1551) / (2000 + 1551 + 1280))


def test_mirrored_views_are_turned_back() -> None:
    """Left and right halves differ: a view that stays mirrored would blur the answer."""
    image = np.full((64, 128, 3), 20, dtype=np.uint8)
    image[:, 64:] = 120
    plain = segment(ReadsLabels(), image, SegmentationTest(), Place())
    mirrored = segment(ReadsLabels(), image, SegmentationTest(scales=(1.0,), flip=True), Place())
    assert (plain[:, :60] == 19).all()
    assert (plain[:, 68:] == 119).all()
    assert np.array_equal(mirrored[:, :60], plain[:, :60])
    assert np.array_equal(mirrored[:, 68:], plain[:, 68:])


def test_several_views_average_probabilities() -> None:
    class PerView(torch.nn.Module):
        """Logits by the view's size: strong for class 0 at one scale, slightly for class 1 at the two others."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits = torch.zeros(1, 150, *x.shape[-2:])
            logits[:, 0 if x.shape[-1] == 512 else 1] = 50 if x.shape[-1] == 512 else 20
            return logits

    image = np.zeros((64, 64, 3), dtype=np.uint8)
    assert segment(PerView(), image, SegmentationTest(scales=(1.0,)), Place()).max() == 0
    # mean of logits would answer 0 (50 against 40); of probabilities 1 (about 1 against 2)
    assert segment(PerView(), image, SegmentationTest(scales=(0.5, 1.0, 1.5)), Place()).min() == 1
    assert MULTI_SCALES == (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


def test_paired_difference_of_a_model_with_itself_and_with_a_worse_one() -> None:
    rng = np.random.default_rng(0)
    labels = [rng.integers(0, 5, (20, 20)).astype(np.uint8) for _ in range(40)]
    good = [image_counts(np.where(rng.random((20, 20)) < 0.9, x, 0), x) for x in labels]
    bad = [image_counts(np.where(rng.random((20, 20)) < 0.7, x, 0), x) for x in labels]
    assert paired_difference(good, good, 50) == (0, 0, 0)
    difference, low, high = paired_difference(good, bad, 200)
    assert 0 < low < difference < high
    assert difference == pytest.approx(score(sum(good)).miou - score(sum(bad)).miou)


def test_bad_trees(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="give --data the folder"):
        ADE20K.open(tmp_path)
    root = write_ade20k(tmp_path / "data", {"a": blocks(0), "b": blocks(1)})
    (root / "annotations" / "validation" / "b.png").unlink()
    with pytest.raises(BadInput, match=r"1 images without annotation.*b\.png"):
        ADE20K.open(root)


def test_unreadable_files_are_named_and_left_out(tmp_path: Path) -> None:
    root = write_ade20k(tmp_path / "data", {n: np.full((40, 40), 3, dtype=np.uint8) for n in "abc"})
    (root / "images" / "validation" / "b.jpg").write_bytes(b"no image")
    with pytest.raises(UnreadableImage, match=r"b\.jpg"):
        ADE20K.open(root).image("b")
    how = Pass(tmp_path / "r", {}, Workers())
    run = evaluate_ade20k(ReadsLabels(), ADE20K.open(root), SegmentationTest(), Place(), how)
    assert list(run.rows) == ["a", "c"]
    assert list(run.unreadable) == ["b"]
