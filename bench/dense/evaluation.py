"""A dense model over a validation set, image by image."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from bench.dense.data import ADE20K, COCO
from bench.dense.detection import Detections, ImageSize
from bench.dense.layers import resize
from bench.dense.miou import image_counts, to_row
from bench.dense.transforms import DETECTION_LIMITS, Image, SegmentationTest, detection_input, segmentation_input
from bench.evaluation import passes
from bench.evaluation.files import UnreadableImage
from bench.evaluation.passes import Missing, loaded
from bench.evaluation.store import Store
from bench.machine.device import autocast
from bench.torchrun import Workers

Row = dict[str, Any]
"""What is kept of an image, as JSON."""

AUTOCAST = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""dtype name -> what autocast computes in; "float32" is without autocast and without TF32."""


@dataclass(frozen=True)
class Place:
    """Where and in what precision a model runs."""

    device: str = "cpu"
    dtype: str = "float32"

    @contextmanager
    def inference(self) -> Iterator[None]:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        with torch.inference_mode(), autocast(self.device, AUTOCAST[self.dtype]):
            yield


def segment(model: nn.Module, image: Image, test: SegmentationTest, place: Place) -> NDArray[np.int64]:
    """Classes (H, W) of an image. One view: arg-max of its logits; several: of their mean probabilities."""
    size = (image.shape[0], image.shape[1])
    total: Tensor | None = None
    with place.inference():
        for scale, flipped in test.views:
            x = segmentation_input(image, test, scale, flipped)[None].to(place.device)
            logits = model(x).float()  # at the input's size; then to the image's, each resized on its own
            logits = resize(logits.flip(-1) if flipped else logits, size)
            view = logits if len(test.views) == 1 else logits.softmax(dim=1)
            total = view if total is None else total + view
    assert total is not None
    return total[0].argmax(dim=0).cpu().numpy()


def detect(model: nn.Module, image: Image, place: Place, limits: tuple[float, float] = DETECTION_LIMITS) -> Detections:
    """Detections of an image that is scaled to fit (long, short) limits, on the CPU."""
    x, resized = detection_input(image, limits)
    size = ImageSize(original=(image.shape[0], image.shape[1]), resized=resized)
    with place.inference():
        (detections,) = model(x[None].to(place.device), [size])
    return Detections(*(t.cpu() for t in (detections.boxes, detections.scores, detections.labels, detections.masks)))


@dataclass
class Sample:
    """One image as it was read, or the reason why it cannot be used; it is the batch of its index."""

    number: int
    content: Any = None
    unreadable: dict[int, str] = field(default_factory=dict)


class Samples(Dataset[Sample]):
    """What `load` returns for each name. It raises `UnreadableImage` for an image that cannot be used."""

    def __init__(self, names: Sequence[str], load: Callable[[str], Any]) -> None:
        self.names, self.load = names, load

    def __getitem__(self, i: int) -> Sample:
        try:
            return Sample(i, self.load(self.names[i]))
        except UnreadableImage as error:
            return Sample(i, unreadable={i: str(error)})


class JSONLines:
    """The form in which results of images are kept: a line each, which names the image."""

    suffix = "jsonl"

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.numbers = {name: i for i, name in enumerate(names)}

    def encode(self, number: int, result: Row) -> bytes:
        return json.dumps({"image": self.names[number], **result}, separators=(",", ":")).encode() + b"\n"

    def decode(self, content: bytes) -> tuple[dict[int, Row], int]:
        size = content.rfind(b"\n") + 1
        rows = {}
        for i, line in enumerate(content[:size].splitlines(), start=1):
            row = json.loads(line)
            if not isinstance(row, dict) or str(row.get("image")) not in self.numbers or len(row) < 2:
                raise ValueError(f"line {i} is no result of an image of the set")
            rows[self.numbers[str(row.pop("image"))]] = row
        return rows, size


@dataclass(frozen=True)
class Pass:
    """How a pass over a set is run.

    Args:
        folder, header: of the store of results.
        workers: torchrun's processes.
        loaders: processes that read images, beside this one.
    """

    folder: Path
    header: Mapping[str, Any]
    workers: Workers
    loaders: int = 0


@dataclass
class Run:
    """Image -> its row, in the set's order, and the reasons of those that could not be used."""

    rows: dict[str, Row]
    unreadable: dict[str, str]


def over_images(names: Sequence[str], load: Callable[[str], Any], infer: Callable[[Any], Row], how: Pass) -> Run:
    """Run `infer` on each image of which the store holds no result; every process returns the whole.

    Args:
        names: the set's images.
        load: name -> what is read of an image; raises `UnreadableImage`.
        infer: what was read -> the row to keep.
    """
    store = Store(how.folder, how.header, JSONLines(names), how.workers.rank)

    def read(missing: Missing) -> Iterator[Sample]:
        return loaded(Samples(names, load), list(missing), how.loaders)

    def start(sample: Sample, lacking: list[int]) -> list[Callable[[], Row]]:
        return [] if sample.unreadable else [partial(infer, sample.content)]

    try:
        (results,), unreadable = passes.run([store], len(names), 1, read, start, how.workers)
    finally:
        store.close()
    return Run(
        {name: results[i] for i, name in enumerate(names) if i in results},
        {names[i]: reason for i, reason in sorted(unreadable.items())},
    )


def evaluate_ade20k(model: nn.Module, data: ADE20K, test: SegmentationTest, place: Place, how: Pass) -> Run:
    """Each image's row: `counts` of classes, see `bench.dense.miou`."""

    def infer(sample: tuple[Image, NDArray[np.uint8]]) -> Row:
        image, classes = sample
        return {"counts": to_row(image_counts(segment(model, image, test, place), classes, len(data.classes)))}

    return over_images(data.names, data.pair, infer, how)


def evaluate_coco(model: nn.Module, data: COCO, place: Place, how: Pass) -> Run:
    """Each image's row: `detections` in COCO's result format."""
    from bench.dense.average_precision import to_rows

    def infer(image: Image) -> Row:
        size = (image.shape[0], image.shape[1])
        return {"detections": to_rows(detect(model, image, place), size, data.categories)}

    return over_images(data.names, data.image, infer, how)
