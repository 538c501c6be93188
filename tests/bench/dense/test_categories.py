"""Sets of any categories: how their files are read, and that heads, training, checkpoints and results follow them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("torchvision")
pytest.importorskip("pycocotools")

from bench.ade20k import main as ade20k
from bench.cli import BadInput
from bench.coco import main as coco
from bench.dense.average_precision import average_precision, evaluated
from bench.dense.build import build_dense
from bench.dense.categories import Classes, narrowed, of_objects, of_pixels
from bench.dense.data import ADE20K, COCO
from bench.dense.weights import load_start
from bench.evaluation.files import UnreadableImage
from bench.train_ade20k import main as train_ade20k
from bench.train_coco import main as train_coco
from tests.bench.dense.trees import Shapes, write_ade20k, write_coco_split

ANIMALS = [{"id": 0, "name": "cat"}, {"id": 7, "name": "dog"}, {"id": 9, "name": "wolf"}]
SHAPES: Shapes = {"a.png": [(0, (8, 0, 20, 8)), (7, (40, 0, 30, 8))], "b.png": [(9, (8, 0, 24, 8))]}
NO_PATH = Path("instances.json")


def file(folder: Path, content: object) -> str:
    path = folder / "categories"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def write_animals(root: Path, split: str) -> Path:
    write_coco_split(root, SHAPES, (8, 256), split)
    path = root / "annotations" / f"instances_{split}.json"
    content = json.loads(path.read_text()) | {"categories": ANIMALS}
    for number, annotation in enumerate(content["annotations"]):
        annotation["id"] = number  # from 0, as many tools have it
    path.write_text(json.dumps(content))
    return root


@pytest.mark.parametrize(
    ("content", "names", "ids"),
    [
        ("7 dog\n0 cat\n", ("dog", "cat"), ((7,), (0,))),
        ("# mine\n\n7, dog\n9: dog\n0\tcat\n", ("dog", "cat"), ((7, 9), (0,))),
        ([{"id": 9, "name": "wolf", "supercategory": "x"}], ("wolf",), ((9,),)),
        ({"categories": [{"id": 7, "name": "dog"}], "images": []}, ("dog",), ((7,),)),
        ("wolf\nhouse cat\ncat", ("wolf", "house cat", "cat"), ((9,), (), (0,))),
    ],
)
def test_objects(content: object, names: tuple[str, ...], ids: tuple[tuple[int, ...], ...], tmp_path: Path) -> None:
    categories = [{**c, "name": "dog"} if content and "9: dog" in str(content) and c["id"] == 9 else c for c in ANIMALS]
    found = of_objects(file(tmp_path, content), categories, NO_PATH)
    assert (found.names, found.ids, found.custom) == (names, ids, True)


def test_objects_by_number() -> None:
    found = of_objects("3", ANIMALS[::-1], NO_PATH)
    assert (found.names, found.ids) == (("cat", "dog", "wolf"), ((0,), (7,), (9,)))


def test_pixels(tmp_path: Path) -> None:
    label = np.array([[0, 1, 2, 3, 255]], dtype=np.uint8)
    plain = of_pixels("3")
    assert plain.pixels(label).tolist() == [[255, 0, 1, 2, 255]]
    assert plain.unknown(label) == []
    own = of_pixels(file(tmp_path, "2 road\n0 sky\n3 road\n1 ignored\n"))
    assert own.pixels(label).tolist() == [[1, 255, 0, 0, 255]]
    assert own.unknown(np.array([[7, 1]], dtype=np.uint8)) == [7]
    named = of_pixels(file(tmp_path, "sky\nroad\n"))
    assert named.pixels(label[:, :3]).tolist() == [[255, 0, 1]]
    assert named.unknown(label) == [3]
    last = of_pixels(file(tmp_path, "255 sky\n"))
    assert last.pixels(label).tolist() == [[255] * 4 + [0]]
    standard = of_pixels(None)
    assert standard.unknown(label) == [255]
    assert not standard.custom


WRONG: dict[str, tuple[object, str]] = {
    "no file": (None, "cannot read"),
    "none": ("", "it names 0 classes"),
    "mixed": ("1 cat\ndog\n", "'dog' has no id and name"),
    "an id twice": ("1 cat\n1 dog\n", "id 1 is there twice"),
    "a name twice": ("cat\ncat\n", "cat is there twice"),
    "no JSON": ("[1,", "is no JSON"),
    "no names": ([{"id": 1}], "no list of objects with `id` and `name`"),
    "another name": ("7 cat\n", "7 is cat, and in instances.json dog"),
    "none of the set": ("1 bird\n", "none is in instances.json, whose categories are 3 (cat, dog, wolf)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_files_that_cannot_be_used(case: str, tmp_path: Path) -> None:
    content, words = WRONG[case]
    given = str(tmp_path / "none") if content is None else file(tmp_path, content)
    with pytest.raises(BadInput, match=re.escape(words)):
        of_objects(given, ANIMALS, NO_PATH)


def test_numbers_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="has 3 categories: --categories 2: give 3"):
        of_objects("2", ANIMALS, NO_PATH)
    with pytest.raises(BadInput, match="give 1 to 254"):
        of_pixels("255")
    with pytest.raises(BadInput, match="labels of pixels are 0 to 255"):
        of_pixels(file(tmp_path, "300 sky\n"))


def test_other_objects_are_left_out_and_counted(tmp_path: Path) -> None:
    root = write_animals(tmp_path / "data", "val2017")
    data = COCO.open(root, given=file(tmp_path, "9 wolf\n0 cat\n"))
    assert data.categories == [9, 0]
    assert [(a["id"], a["category_id"]) for a in data.index.dataset["annotations"]] == [(1, 0), (3, 9)]
    assert data.notes[0] == "2 classes by --categories, each with its ids in the set: 0 wolf (9), 1 cat (0)"
    assert data.notes[1].endswith("1 (1 (1 dog) categories)")
    assert data.hash.startswith("custom:")
    assert data.hash != COCO.open(root, given=file(tmp_path, "0 cat\n9 wolf\n")).hash


def test_several_ids_are_one_class(tmp_path: Path) -> None:
    """Detections at the truth's places, dogs and wolves alike, are all right; a model that knows no cats has 50."""
    root = write_animals(tmp_path / "data", "val2017")
    path = root / "annotations" / "instances_val2017.json"
    path.write_text(path.read_text().replace("wolf", "dog"))
    data = COCO.open(root, given=file(tmp_path, "0 cat\n7 dog\n9 dog\n"))
    rows = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 1.0}
        for a in data.index.dataset["annotations"]
    ]
    assert average_precision(evaluated(data.index, rows, "bbox", list(data.ids.values())))["AP"] == pytest.approx(100)
    dogs = [row for row in rows if row["category_id"] == 7]
    assert len(dogs) == 2
    assert average_precision(evaluated(data.index, dogs, "bbox", list(data.ids.values())))["AP"] == pytest.approx(50)


def test_narrowing_changes_nothing_given() -> None:
    dataset: dict[str, Any] = {"annotations": [{"id": 5, "category_id": 7}], "categories": ANIMALS}
    before = json.dumps(dataset)
    narrowed(dataset, Classes(("dog",), ((7,),), custom=True))
    assert json.dumps(dataset) == before


def rows_of(printed: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(printed)["records"]
    return rows


def test_detection_from_training_to_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Trained on own categories, evaluated by the checkpoint's, and refused by another list or none."""
    train, val = write_animals(tmp_path / "train", "train"), write_animals(tmp_path / "val", "val")
    given, output = file(tmp_path, ANIMALS), tmp_path / "m.pth"
    common = ["--device", "cpu", "--workers", "0", "--threads", "1"]
    argv = ["--model", "moganet_xt", "--weights", "random", "--data", train, "--split", "train", "--output", output,
            "--batch-size", 2, "--epochs", 1, "--long", 64, "--shorts", 32, "--roi-samples", 8]  # fmt: skip
    assert train_coco([*map(str, argv), *common, "--categories", given]) == 0
    kept = torch.load(output, weights_only=True)
    assert kept["meta"]["categories"] == [["cat", [0]], ["dog", [7]], ["wolf", [9]]]
    shapes = {name: len(value) for name, value in kept["state_dict"].items() if name.startswith("roi_head")}
    assert shapes["roi_head.bbox_head.fc_cls.weight"] == 4
    assert shapes["roi_head.bbox_head.fc_reg.weight"] == 12
    assert shapes["roi_head.mask_head.conv_logits.weight"] == 3
    argv = ["--models", "moganet_xt", "--weights", output, "--data", val, "--split", "val", "--format", "json"]
    evaluation = [*map(str, argv), *common, "--results", str(tmp_path / "results")]
    capsys.readouterr()
    assert coco([*evaluation, "--categories", "3"]) == 0
    rows = rows_of(capsys.readouterr().out)
    assert {"box AP", "box AR100", "mask AP", "mask AR100"} <= {row["metric"] for row in rows}
    assert all(
        row["dataset"].startswith("custom:") and not any("random" in why for why in row["reasons"]) for row in rows
    )
    assert any(row["valid"] and row["n"] == 2 for row in rows)  # figures of a size that no object has are no numbers
    assert "0 cat (0), 1 dog (7), 2 wolf (9)" in rows[0]["notes"][0]
    header = json.loads(next((tmp_path / "results").glob("*/header.json")).read_text())
    assert header["classes"] == kept["meta"]["categories"]
    with pytest.raises(BadInput, match="has other classes than the set, 'cat' where that has 'dog'"):
        coco([*evaluation, "--categories", file(tmp_path, "7 dog\n0 cat\n9 wolf\n")])
    with pytest.raises(BadInput, match="has 3 classes and the set 2"):
        coco([*evaluation, "--categories", file(tmp_path, "0 cat\n7 dog\n")])
    with pytest.raises(BadInput, match="has 3 categories: the heads are for COCO's 80: give --categories"):
        coco(evaluation)


def test_segmentation_from_training_to_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label = np.array([[0, 1, 2, 255]], dtype=np.uint8).repeat(60, 1).repeat(4, 0)  # the network sees 32x2048 pixels
    root = write_ade20k(tmp_path / "data", {"a": label, "b": label[:, ::-1]})
    given, output = file(tmp_path, "0 sky\n1 road\n2 road\n"), tmp_path / "m.pth"
    common = ["--device", "cpu", "--workers", "0", "--threads", "1", "--split", "validation", "--categories", given]
    argv = ["--model", "moganet_xt", "--weights", "random", "--data", root, "--output", output, "--batch-size", 2,
            "--iterations", 1, "--crop", 32, "--long", 64, "--short", 32]  # fmt: skip
    assert train_ade20k([*map(str, argv), *common]) == 0
    kept = torch.load(output, weights_only=True)
    assert kept["meta"]["categories"] == [["sky", [0]], ["road", [1, 2]]]
    assert {len(v) for name, v in kept["state_dict"].items() if "conv_seg" in name} == {2}
    argv = ["--models", "moganet_xt", "--weights", output, "--data", root, "--format", "json"]
    evaluation = [*map(str, argv), *common, "--results", str(tmp_path / "results")]
    capsys.readouterr()
    assert ade20k(evaluation) == 0
    (miou, *_) = rows_of(capsys.readouterr().out)
    assert miou["valid"]
    assert miou["dataset"].startswith("custom:")
    row = json.loads(next((tmp_path / "results").glob("*/part-0.jsonl")).read_text().splitlines()[0])
    assert sum(counts[2] for counts in row["counts"].values()) == 4 * 180  # 255 is ignored
    with pytest.raises(BadInput, match=r"unreadable|could be used: a\.png: label 2, which --categories does not name"):
        ade20k([*evaluation[:-1], str(tmp_path / "r"), "--categories", file(tmp_path, "0 sky\n1 road\n")])


def test_labels_that_no_category_names(tmp_path: Path) -> None:
    root = write_ade20k(tmp_path / "data", {"a": np.full((8, 8), 3, np.uint8)})
    data = ADE20K.open(root, given=file(tmp_path, "1 road\n"))
    with pytest.raises(UnreadableImage, match=r"a\.png: label 3, which --categories does not name"):
        data.pair("a")
    Image.fromarray(np.full((8, 8), 200, np.uint8)).save(root / "annotations" / "validation" / "a.png")
    with pytest.raises(UnreadableImage, match=r"a\.png: label 200: no annotation of 150 classes"):
        ADE20K.open(root).pair("a")


@pytest.mark.parametrize("head", ["maskrcnn", "cascade_2fc", "upernet"])
def test_a_whole_checkpoint_of_other_classes_starts_a_training(head: str, tmp_path: Path) -> None:
    """Everything is loaded but what the heads have of each class, which is said; without --categories it is refused."""
    torch.manual_seed(1)
    path = tmp_path / "m.pth"
    torch.save(build_dense("moganet_xt", head, "train").state_dict(), path)
    state = torch.load(path, weights_only=True)
    torch.manual_seed(2)
    model = build_dense("moganet_xt", head, "train", classes=3)
    own = {name: value.clone() for name, value in model.state_dict().items()}
    classes = Classes(("a", "b", "c"), ((1,), (2,), (3,)), custom=True)
    said = load_start(model, state, path, classes)
    assert re.search(r"m.pth has (80|150) classes and the set 3: .* begin anew", said)
    fresh = [name for name, value in model.state_dict().items() if not torch.equal(value, state[name])]
    assert all(torch.equal(model.state_dict()[name], own[name]) for name in fresh)
    layers = {name.split(".")[-2] for name in fresh}
    expected = {"upernet": {"conv_seg"}, "cascade_2fc": {"fc_cls", "conv_logits"}}
    assert layers == expected.get(head, {"fc_cls", "fc_reg", "conv_logits"})
    with pytest.raises(BadInput, match="no checkpoint of this model and head"):
        load_start(model, state, path, Classes(("a", "b", "c"), ((1,), (2,), (3,))))
