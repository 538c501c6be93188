"""A dense model over a validation set: image by image, journalled, shared between torchrun's processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from bench.dense.data import ADE20K, COCO, UnreadableImage
from bench.dense.detection import Detections, ImageSize
from bench.dense.journal import Journal, Row, collect, remaining
from bench.dense.layers import resize
from bench.dense.miou import image_counts, shift_labels, to_row
from bench.dense.transforms import DETECTION_LIMITS, Image, SegmentationTest, detection_input, segmentation_input
from bench.torchrun import Workers

AUTOCAST = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""dtype name -> what autocast computes in; "float32" is without autocast and without TF32."""


@dataclass(frozen=True)
class Place:
    """Where and in what precision a model runs."""

    device: str = "cpu"
    dtype: str = "float32"

    @contextmanager
    def inference(self) -> Iterator[None]:
        dtype, kind = AUTOCAST[self.dtype], self.device.split(":")[0]
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        with torch.inference_mode(), torch.autocast(kind, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
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
        (found,) = model(x[None].to(place.device), [size])
    return Detections(*(t.cpu() for t in (found.boxes, found.scores, found.labels, found.masks)))


class _Samples(Dataset[Any]):
    """What `load` returns for each name, or the reason why it cannot be read."""

    def __init__(self, names: list[str], load: Callable[[str], Any]) -> None:
        self.names, self.load = names, load

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> tuple[str, Any, str]:
        try:
            return self.names[i], self.load(self.names[i]), ""
        except UnreadableImage as error:
            return self.names[i], None, str(error)


@dataclass
class Run:
    """Rows of the images that were evaluated, in the set's order, and the reasons of those that could not be read."""

    rows: list[Row]
    unreadable: dict[str, str]


def over_images(
    names: list[str],
    load: Callable[[str], Any],
    infer: Callable[[str, Any], Row],
    folder: Path,
    header: dict[str, Any],
    workers: Workers,
    loaders: int = 0,
    quiet: bool = True,
) -> Run:
    """Run `infer` on each image that `folder` holds no result of; every process returns the whole.

    Args:
        names: the set's images.
        load: name -> sample; raises `UnreadableImage`. Runs in `loaders` processes beside this one.
        infer: (name, sample) -> the row to keep.
        folder, header: of the journal.
        workers: torchrun's processes.
        quiet: without a progress bar.
    """
    journal = Journal(folder, header, workers.rank)
    try:
        todo = remaining(names, journal, workers)
        samples = DataLoader(_Samples(todo, load), batch_size=None, num_workers=loaders, collate_fn=_as_it_is)
        unreadable: dict[str, str] = {}
        for name, sample, reason in tqdm(samples, total=len(todo), unit="image", disable=quiet or workers.rank > 0):
            if reason:
                unreadable[name] = reason
            else:
                journal.add(name, infer(name, sample))
        for part in workers.gather(unreadable):
            unreadable |= part
        return Run(collect([n for n in names if n not in unreadable], journal, workers), unreadable)
    finally:
        journal.close()


def _as_it_is(sample: Any) -> Any:
    return sample


def evaluate_ade20k(model: nn.Module, data: ADE20K, test: SegmentationTest, place: Place, **run: Any) -> Run:
    """Each image's row: `counts` of classes, see `bench.dense.miou`. `run` is for `over_images`."""

    def load(name: str) -> tuple[Image, NDArray[np.uint8]]:
        image, label = data.image(name), data.label(name)
        if image.shape[:2] != label.shape:
            raise UnreadableImage(f"{name}: image {image.shape[:2]} and annotation {label.shape} differ in size")
        return image, label

    def infer(name: str, sample: tuple[Image, NDArray[np.uint8]]) -> Row:
        image, label = sample
        return {"counts": to_row(image_counts(segment(model, image, test, place), shift_labels(label)))}

    return over_images(data.names, load, infer, **run)


def evaluate_coco(model: nn.Module, data: COCO, place: Place, **run: Any) -> Run:
    """Each image's row: `detections` in COCO's result format. `run` is for `over_images`."""
    from bench.dense.average_precision import to_rows

    def infer(name: str, image: Image) -> Row:
        size = (image.shape[0], image.shape[1])
        return {"detections": to_rows(detect(model, image, place), size, data.categories)}

    return over_images(data.names, data.image, infer, **run)
