"""COCO's annotation files, checked in full when they are opened: hours of inference come before they are scored."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.cli import BadInput
from bench.dense.categories import MEND, STANDARD
from bench.evaluation.files import refuse_repeated

LARGEST = 1e9  # of a coordinate; not a number and infinity are not within it either


def check(path: Path, dataset: Any, custom: bool = False) -> None:
    """Make sure that pycocotools and training can use everything in `dataset`, the content of `path`.

    `custom`: whether it may have any categories; its annotations get new ids then, so that theirs may be 0.

    Raises:
        BadInput: naming the first image, category or annotation that they would fail on, ignore or take for another.
    """
    lists = ("images", "annotations", "categories")
    if not isinstance(dataset, dict) or not all(_objects(dataset.get(name)) for name in lists):
        raise BadInput(f"{path} has no images, annotations and categories")
    if not custom and len(dataset["categories"]) != STANDARD["coco"]:
        number = len(dataset["categories"])
        raise BadInput(f"{path} has {number} categories: the heads are for COCO's {STANDARD['coco']}: {MEND}")
    if not dataset["images"]:
        raise BadInput(f"{path} names no images")
    of_annotations = _numbered if custom else _identified
    for kind, why in (("images", _image), ("categories", _numbered), ("annotations", of_annotations)):
        for i, entry in enumerate(dataset[kind]):
            if reason := why(entry):
                raise BadInput(f"{path}: {kind}[{i}] {reason}: mend it")
        refuse_repeated(f"{path}, {kind}", (f"id {entry['id']}" for entry in dataset[kind]))
    refuse_repeated(f"{path}, images", (image["file_name"] for image in dataset["images"]))
    images = {image["id"]: image for image in dataset["images"]}
    categories = {category["id"] for category in dataset["categories"]}
    for annotation in dataset["annotations"]:
        if reason := _annotation(annotation, images, categories):
            raise BadInput(f"{path}: annotation {annotation['id']} {reason}: mend it, or remove it")


def _objects(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)


def _identified(entry: Mapping[str, Any]) -> str:
    # pycocotools takes an object of id 0 for one that nothing matched
    return "" if _whole(entry.get("id")) and entry["id"] > 0 else "has no id above 0"


def _numbered(entry: Mapping[str, Any]) -> str:
    return "" if _whole(entry.get("id")) and entry["id"] >= 0 else "has no id of 0 or more"


def _image(entry: Mapping[str, Any]) -> str:
    if not _whole(entry.get("id")) or not _is_path(entry.get("file_name")):
        return "has no id and file_name"
    sides: list[Any] = [entry.get("height"), entry.get("width")]
    return "" if all(_whole(side) and side > 0 for side in sides) else "has no height and width in pixels"


def _annotation(a: Mapping[str, Any], images: Mapping[int, Mapping[str, Any]], categories: set[int]) -> str:
    """Why an annotation cannot be used; empty if it can."""
    if not _whole(a.get("image_id")) or a["image_id"] not in images:
        return f"is of image_id {a.get('image_id')}, which no image has"
    if not _whole(a.get("category_id")) or a["category_id"] not in categories:
        return f"has category_id {a.get('category_id')}, which no category has"
    if a.get("iscrowd") not in (0, 1):
        return "has no iscrowd of 0 or 1"
    if not _numbers([a.get("area")]) or a["area"] < 0:
        return "has no area of 0 or more"
    if not _numbers(a.get("bbox")) or len(a["bbox"]) != 4 or min(a["bbox"][2:]) < 0:
        return "has no bbox of x, y, width, height"
    shape = a.get("segmentation")
    if isinstance(shape, dict):
        image = images[a["image_id"]]
        if shape.get("size") != [image["height"], image["width"]] or not isinstance(shape.get("counts"), str | list):
            return "has a run-length code without counts, or of another size than its image"
        runs = _runs(shape["counts"])
        right = all(_whole(run) and run >= 0 for run in runs) and sum(runs) == image["height"] * image["width"]
        return "" if right else "has a run-length code that does not cover its image"  # the rest would be any memory
    if not isinstance(shape, list) or not shape:
        return "has an empty segmentation"
    right = all(_numbers(polygon) and len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in shape)
    return "" if right else "has a polygon of fewer than three points x, y"


def _runs(counts: str | list[Any]) -> list[Any]:
    """The lengths of a run-length code, as pycocotools reads them; [-1] for text that is none."""
    if isinstance(counts, list):
        return counts
    runs: list[Any] = []
    value = shift = 0
    for character in counts:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            return [-1]
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits >> 4 & 1) << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return [-1] if shift else runs


def _is_path(value: object) -> bool:
    """Whether it can be the name of a file."""
    try:
        parts = value.encode().split(b"/") if isinstance(value, str) else []
    except UnicodeEncodeError:
        return False
    return bool(parts) and all(len(part) < 256 and b"\0" not in part for part in parts)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _numbers(values: object) -> bool:
    return isinstance(values, list) and all(
        isinstance(v, int | float) and not isinstance(v, bool) and -LARGEST < v < LARGEST for v in values
    )
