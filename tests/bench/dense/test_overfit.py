"""The training commands on drawn shapes, from random weights: a high score on the few images that they saw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.bench.dense.trees import write_coco_split

pytest.importorskip("torchvision")
pytest.importorskip("pycocotools")

from bench import train_ade20k, train_coco
from bench.dense import command
from bench.dense.average_precision import average_precision, evaluated, to_rows
from bench.dense.data import ADE20K, COCO
from bench.dense.evaluation import Place, detect, segment
from bench.dense.miou import image_counts, score
from bench.dense.transforms import SegmentationTest

COLOURS = {1: (40, 60, 40), 2: (220, 40, 40), 3: (40, 90, 230), 4: (240, 220, 60)}


def draw_segmentation(root: Path, count: int = 4, side: int = 64) -> None:
    """A rectangle and a disc, of two of three classes, on a ground of a fourth."""
    rng = np.random.default_rng(0)
    for folder in ("images", "annotations"):
        (root / folder / "training").mkdir(parents=True)
    for i in range(count):
        image, label = Image.new("RGB", (side, side), COLOURS[1]), Image.new("L", (side, side), 1)
        for draw_one, kind in zip(("rectangle", "ellipse"), rng.permutation([2, 3, 4]), strict=False):
            x, y = rng.integers(2, side // 2, 2)
            box = [int(x), int(y), int(x) + side // 3, int(y) + side // 3]
            getattr(ImageDraw.Draw(image), draw_one)(box, fill=COLOURS[int(kind)])
            getattr(ImageDraw.Draw(label), draw_one)(box, fill=int(kind))
        image.save(root / "images" / "training" / f"{i}.jpg", quality=95)
        label.save(root / "annotations" / "training" / f"{i}.png")


@pytest.mark.slow
def test_segmentation_learns_drawn_shapes(tmp_path: Path) -> None:
    draw_segmentation(tmp_path / "data")
    args = ["--model", "overlock_xt", "--weights", "random", "--data", tmp_path / "data",
            "--output", tmp_path / "m.pth", "--iterations", 60, "--lr", 5e-4,
            "--warmup", 5, "--batch-size", 4, "--workers", 0, "--drop-path", 0,
            "--long", 256, "--short", 64, "--factors", 1, 1, "--crop", 64, "--threads", 1,
            "--print-every", 10]  # fmt: skip
    assert train_ade20k.main([str(arg) for arg in args]) == 0
    data, test = ADE20K.open(tmp_path / "data", "training"), SegmentationTest("bicubic", scales=(0.125,))
    model, _ = command.load_model("overlock_xt", "upernet", str(tmp_path / "m.pth"), "deploy", "cpu", data.classes)
    pairs = [data.pair(name) for name in data.names]
    counts = sum(image_counts(segment(model, image, test, Place()), classes) for image, classes in pairs)
    assert score(counts).miou > 80, score(counts)


@pytest.mark.slow
@pytest.mark.parametrize("head", ["maskrcnn", "cascade"])
def test_detection_learns_drawn_shapes(head: str, tmp_path: Path) -> None:
    shapes = {
        "0.png": [(1, (16, 20, 56, 60)), (3, (90, 8, 30, 70))],
        "1.png": [(3, (10, 10, 40, 90)), (1, (70, 50, 50, 50))],
    }
    write_coco_split(tmp_path / "data", shapes, (128, 128), "train2017")
    args = ["--model", "moganet_xt", "--head", head, "--weights", "random", "--data", tmp_path / "data",
            "--output", tmp_path / "m.pth", "--epochs", 60, "--lr", 5e-4, "--warmup", 5, "--batch-size", 2,
            "--workers", 0, "--drop-path", 0, "--long", 128, "--shorts", 128, "--roi-samples", 32, "--clip", 5,
            "--threads", 1, "--print-every", 10]  # fmt: skip
    assert train_coco.main([str(arg) for arg in args]) == 0
    data = COCO.open(tmp_path / "data", "train2017")
    model, _ = command.load_model("moganet_xt", head, str(tmp_path / "m.pth"), "deploy", "cpu", data.classes)
    rows = []
    for name in data.names:
        found = detect(model, data.image(name), Place(), (128, 128))
        rows += [{"image_id": data.ids[name], **row} for row in to_rows(found, (128, 128), data.categories)]
    for kind in ("bbox", "segm"):
        values = average_precision(evaluated(data.index, rows, kind, list(data.ids.values())))
        print(head, kind, values)
        assert values["AP50"] > 90, values
