"""Box and mask AP of drawn objects: perfect and degraded answers with AP by hand; the paired comparison."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("torchvision")
pytest.importorskip("pycocotools")

from bench.cli import BadInput
from bench.dense.average_precision import average_precision, evaluated, matches, paired_difference, weighted_ap
from bench.dense.data import COCO
from bench.dense.detection import Detections, ImageSize
from bench.dense.evaluation import Pass, Place, Run, evaluate_coco
from bench.evaluation.files import UnreadableImage
from bench.torchrun import Workers
from tests.bench.dense.trees import COCO_IDS, write_coco

SIZE = (120, 160)
Objects = dict[str, list[tuple[int, tuple[int, int, int, int]]]]
OBJECTS: Objects = {
    "a.png": [(1, (10, 20, 50, 40)), (90, (80, 60, 40, 40))],
    "b.png": [(1, (30, 30, 110, 90))],
    "c.png": [(44, (5, 5, 20, 20)), (44, (100, 10, 30, 90))],
    "d.png": [],  # no object
}


class Answers(nn.Module):
    """A detector that gives, image after image, the drawn boxes (full masks), moved or left out as asked.

    Boxes are answered in the original image, as `DetectionModel` does. `shift` moves every box by that share of its
    width; `miss` leaves out categories; `extra` adds a wrong box, at this score, to every image.
    """

    def __init__(self, objects: Objects, shift: float = 0, miss: tuple[int, ...] = (), extra: float = 0) -> None:
        super().__init__()
        self.queue = [shapes for _, shapes in objects.items()]
        self.shift, self.miss, self.extra = shift, miss, extra

    def forward(self, x: Tensor, sizes: list[ImageSize]) -> list[Detections]:
        assert sizes[0].original == SIZE
        found = [
            (c, (x0 + self.shift * w, y, w, h), 0.9) for c, (x0, y, w, h) in self.queue.pop(0) if c not in self.miss
        ]
        if self.extra:
            found.append((1, (0, 110, 8, 8), self.extra))
        boxes = torch.tensor([[x0, y, x0 + w, y + h] for _, (x0, y, w, h), _ in found]).reshape(-1, 4).float()
        labels = torch.tensor([COCO_IDS.index(c) for c, _, _ in found], dtype=torch.long)
        scores = torch.tensor([s for _, _, s in found])
        return [Detections(boxes, scores, labels, torch.ones(len(found), 28, 28))]


def answered(root: Path, folder: Path, model: nn.Module) -> tuple[COCO, Run]:
    data = COCO.open(root)
    return data, evaluate_coco(model, data, Place(), Pass(folder, {}, Workers()))


def ap(data: COCO, run: Run, kind: str) -> dict[str, float]:
    rows = [{"image_id": data.ids[image], **d} for image, row in run.rows.items() for d in row["detections"]]
    return average_precision(evaluated(data.index, rows, kind, [data.ids[image] for image in run.rows]))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_coco(tmp_path / "data", OBJECTS, SIZE)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_perfect_answers(tmp_path: Path, root: Path, kind: str) -> None:
    data, run = answered(root, tmp_path / "r", Answers(OBJECTS))
    got = ap(data, run, kind)
    assert len(got) == 12
    # of a category with two objects one detection finds half, of the two others all
    assert {k: round(v, 6) for k, v in got.items()} == {**dict.fromkeys(got, 100.0), "AR1": round(100 * 2.5 / 3, 6)}


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_a_missed_category_costs_its_share(tmp_path: Path, root: Path, kind: str) -> None:
    data, run = answered(root, tmp_path / "r", Answers(OBJECTS, miss=(90,)))
    assert ap(data, run, kind)["AP"] == pytest.approx(100 * 2 / 3)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_moved_boxes_count_up_to_their_iou(tmp_path: Path, root: Path, kind: str) -> None:
    """Moved by a fifth of the width: IoU 0.8 / 1.2 = 2/3, a hit at 0.5, 0.55, 0.6 and 0.65 of ten thresholds."""
    data, run = answered(root, tmp_path / "r", Answers(OBJECTS, shift=0.2))
    got = ap(data, run, kind)
    assert got["AP"] == pytest.approx(40)
    assert got["AP50"] == pytest.approx(100)
    assert got["AP75"] == 0
    assert got["AR100"] == pytest.approx(40)


@pytest.mark.parametrize(("score", "want"), [(0.95, None), (0.1, 100.0)])
def test_wrong_boxes_cost_where_they_score_higher(tmp_path: Path, root: Path, score: float, want: float | None) -> None:
    data, run = answered(root, tmp_path / "r", Answers(OBJECTS, extra=score))
    # category 1: 2 objects; 4 wrong ones first -> precision 1/5, then 2/6; the envelope is 1/3 at every recall
    expected = want if want is not None else 100 * (1 / 3 + 1 + 1) / 3
    assert ap(data, run, "bbox")["AP"] == pytest.approx(expected)


def test_category_ids_follow_the_labels_in_ascending_order(tmp_path: Path, root: Path) -> None:
    _, run = answered(root, tmp_path / "r", Answers(OBJECTS))
    detections = next(iter(run.rows.values()))["detections"]
    assert [d["category_id"] for d in detections] == [1, 90]
    assert detections[0]["bbox"] == [10, 20, 50, 40]


def test_no_detections_at_all(tmp_path: Path, root: Path) -> None:
    data, run = answered(root, tmp_path / "r", Answers(OBJECTS, miss=(1, 44, 90)))
    assert ap(data, run, "bbox")["AP"] == ap(data, run, "segm")["AP"] == 0


def random_results(data: COCO, quality: float, seed: int) -> list[dict]:
    """Detections near the objects, some wrong ones, scores that mean little."""
    rng = np.random.default_rng(seed)
    rows = []
    for annotation in data.index.dataset["annotations"]:
        for _ in range(2):
            box = np.array(annotation["bbox"]) + rng.normal(0, 10 * (1 - quality), 4)
            category = annotation["category_id"] if rng.random() < quality else 1
            rows.append({"image_id": annotation["image_id"], "category_id": category, "score": float(rng.random()),
                         "bbox": [*box[:2], *np.maximum(box[2:], 1)]})  # fmt: skip
    return [{**row, "bbox": [float(v) for v in row["bbox"]]} for row in rows]


@pytest.fixture
def large(tmp_path: Path) -> COCO:
    rng = np.random.default_rng(1)
    objects: Objects = {
        f"{i}.png": [
            (int(rng.choice([1, 18, 90])), (int(rng.integers(0, 90)), int(rng.integers(0, 60)), 40, 40))
            for _ in range(rng.integers(0, 4))
        ]
        for i in range(40)
    }
    return COCO.open(write_coco(tmp_path / "large", objects, SIZE))


def test_our_ap_from_matches_is_pycocotools(large: COCO) -> None:
    for seed in range(4):
        evaluation = evaluated(large.index, random_results(large, 0.6, seed), "bbox", list(large.ids.values()))
        want = average_precision(evaluation)["AP"]
        ones = np.ones(len(large.ids), dtype=np.int64)
        assert 0 < want < 100
        assert weighted_ap(matches(evaluation), ones, evaluation.params.recThrs) == pytest.approx(want, abs=1e-9)


def test_paired_difference(large: COCO) -> None:
    ids = list(large.ids.values())
    good, bad = (evaluated(large.index, random_results(large, q, 5), "bbox", ids) for q in (0.9, 0.5))
    assert paired_difference(good, good, 20) == (0, 0, 0)
    difference, low, high = paired_difference(good, bad, 60)
    assert 0 < low < difference < high
    assert difference == pytest.approx(average_precision(good)["AP"] - average_precision(bad)["AP"], abs=1e-9)


def test_bad_trees(tmp_path: Path, root: Path) -> None:
    with pytest.raises(BadInput, match="give --data the folder"):
        COCO.open(tmp_path / "none")
    annotations = root / "annotations" / "instances_val2017.json"
    text = annotations.read_text()
    annotations.write_text("{")
    with pytest.raises(BadInput, match="no JSON"):
        COCO.open(root)
    annotations.write_text(
        text.replace('{"id": 90, "name": "90"}', '{"id": 1, "name": "1"}').replace(', {"id": 89, "name": "89"}', "")
    )
    with pytest.raises(BadInput, match="79 categories"):
        COCO.open(root)


def test_images_of_another_size_are_refused(root: Path) -> None:
    annotations = root / "annotations" / "instances_val2017.json"
    annotations.write_text(annotations.read_text().replace('"height": 120', '"height": 121'))
    with pytest.raises(UnreadableImage, match="annotations say"):
        COCO.open(root).image("a.png")
