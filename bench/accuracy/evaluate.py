"""Several models over one pass of the images: decoded once, transformed once for those that share a recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.accuracy import predictions as pred
from bench.accuracy.data import ImageSet
from bench.accuracy.loader import Batch, batches
from bench.accuracy.predictions import Predictions, Rows, finish
from bench.accuracy.recipes import Recipe
from bench.cli import BadInput, resolution_name
from bench.engine.subject import DTYPES, LAYOUTS
from bench.evaluation import passes
from bench.evaluation.passes import Missing
from bench.evaluation.store import Store
from bench.machine.device import autocast
from bench.torchrun import Workers
from overlock.contmix import BackendsSeen

TOP = 5
Outputs = tuple[Tensor, Tensor, Tensor]
"""Of a batch: best classes (B, 5), the label's rank (B,), whether the logits are finite (B,)."""


@dataclass(frozen=True)
class Conditions:
    """How networks run. `dtype` is what weights and inputs are cast to, or `amp-<dtype>` for autocast.

    `tf32` is float32 whose matrix products and convolutions may round to TF32 on CUDA; `float32` never does.
    """

    device: str = "cpu"
    dtype: str = "float32"
    layout: str = "channels_first"
    compile: bool = False
    batch: int = 64
    workers: int = 2

    @property
    def cast(self) -> torch.dtype:
        return torch.float32 if self.dtype.startswith("amp-") else DTYPES[self.dtype]

    def autocast(self) -> torch.autocast:
        return autocast(self.device, DTYPES[self.dtype.removeprefix("amp-")] if self.dtype.startswith("amp-") else None)

    def apply(self) -> None:
        """Set what holds for the whole process."""
        torch.set_float32_matmul_precision("high" if self.dtype == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = self.dtype == "tf32"

    def to_dict(self) -> dict[str, Any]:
        """What a figure may depend on; not how many processes decode."""
        return {
            "device": self.device.partition(":")[0],
            "dtype": self.dtype,
            "layout": self.layout,
            "compile": self.compile,
            "batch": self.batch,
        }


class Classifier:
    """A network ready to predict from uint8 images.

    Args:
        model: in evaluation mode; is moved and cast in place.
        recipe: how its images are made; the normalisation is done here.
        subset: class indices that predictions are confined to.
    """

    def __init__(
        self, model: nn.Module, recipe: Recipe, conditions: Conditions, subset: tuple[int, ...] | None = None
    ) -> None:
        self.conditions, self.recipe, self.subset = conditions, recipe, subset
        model = model.eval().requires_grad_(False).to(conditions.device, conditions.cast)
        self._plain = model.to(memory_format=LAYOUTS[conditions.layout])
        self.model: Callable[[Tensor], Any] = torch.compile(self._plain) if conditions.compile else self._plain
        # the operations, and their order, are those of timm's prefetching loader
        self.mean, self.std = (
            torch.tensor([255 * v for v in values], device=conditions.device).view(1, 3, 1, 1)
            for values in (recipe.mean, recipe.std)
        )

    @torch.inference_mode()
    def __call__(self, images: Tensor, labels: Tensor) -> Outputs:
        """The outputs of images (B, 3, H, W), uint8, with their labels (B,), both on the device."""
        x = images.float().sub_(self.mean).div_(self.std)
        x = x.to(self.conditions.cast).contiguous(memory_format=LAYOUTS[self.conditions.layout])
        with self.conditions.autocast():
            logits: Tensor = self.model(x)
        logits = logits.float()
        finite = logits.isfinite().all(dim=1)
        if self.subset is not None:
            kept = torch.full_like(logits[0], -torch.inf)
            kept[list(self.subset)] = 0
            logits = logits + kept
        order = logits.argsort(dim=1, descending=True, stable=True)
        rank = (order == labels[:, None]).int().argmax(dim=1)
        best = order[:, :TOP]
        return F.pad(best, (0, TOP - best.shape[1]), value=-1), rank, finite  # of fewer classes: none after the last

    def check(self, labels: Sequence[int]) -> str:
        """Run one blank image; returns which implementations of ContMix did.

        Raises:
            BadInput: if the network has too few classes for the labels, or other outputs than logits.
        """
        blank = torch.zeros((1, 3, *self.recipe.geometry.size), dtype=torch.uint8, device=self.conditions.device)
        x = blank.to(self.conditions.cast).contiguous(memory_format=LAYOUTS[self.conditions.layout])
        with torch.inference_mode(), self.conditions.autocast(), BackendsSeen() as seen:
            logits = self._plain(x)
        if not isinstance(logits, Tensor) or logits.dim() != 2:
            raise BadInput("the model gives no logits (images, classes): it cannot be evaluated here")
        if max(labels) >= logits.shape[1]:
            raise BadInput(f"labels go up to {max(labels)}, and the model has {logits.shape[1]} classes")
        return seen.label


@dataclass
class Run:
    """One model in one form at one resolution: what computes it, and where its predictions are kept."""

    classifier: Classifier
    store: Store[Rows]


def header(
    model: str, form: str, recipe: Recipe, weights: str, images: ImageSet, conditions: Conditions, **more: Any
) -> dict[str, Any]:
    """What a run's predictions are of: everything that they may depend on."""
    import timm

    return {
        "model": model,
        "form": form,
        "resolution": resolution_name(recipe.geometry.size),
        "recipe": recipe.to_dict(),
        "weights": weights,
        "dataset": images.dataset,
        "images": len(images),
        "manifest": images.digest,
        "classes": len(images.subset) if images.subset else None,
        **({"class_index": dict(images.classes)} if images.classes else {}),
        **conditions.to_dict(),
        "torch": str(torch.__version__),
        "timm": timm.__version__,
        **more,
    }


def evaluate(
    images: ImageSet,
    runs: Sequence[Run],
    conditions: Conditions,
    workers: Workers,
    load: Callable[..., Iterator[Batch]] = batches,
) -> tuple[list[Predictions], dict[int, str]]:
    """Evaluate what is still missing of `runs`; returns each one's predictions, and why images cannot be read.

    Every process of `workers` gets all predictions. `load` gives the batches that are wanted, as `loader.batches` does.
    A reason is known only for images that were met in this call.

    Raises:
        BadInput: if results cannot be written, or a process that decodes dies; what was kept stays.
    """
    geometries = list(dict.fromkeys(run.classifier.recipe.geometry for run in runs))
    geometry_of = [geometries.index(run.classifier.recipe.geometry) for run in runs]

    def read(missing: Missing) -> Iterator[Batch]:
        wanted = {number: tuple(sorted({geometry_of[r] for r in lacking})) for number, lacking in missing.items()}
        cuda = conditions.device.startswith("cuda")
        return load(images.source, conditions.batch, geometries, wanted, conditions.workers, pin_memory=cuda)

    def start(batch: Batch, lacking: list[int]) -> list[Callable[[], Rows]]:
        on_device = {g: x.to(conditions.device, non_blocking=True) for g, x in batch.images.items()}
        labels = torch.tensor([images.labels[i] for i in batch.rows], dtype=torch.long).to(conditions.device)
        outputs = (runs[r].classifier(on_device[geometry_of[r]], labels) if batch.rows else _nothing() for r in lacking)
        return [partial(_rows, batch, output, images.labels) for output in outputs]

    stores = [run.store for run in runs]
    results, unreadable = passes.run(stores, len(images), conditions.batch, read, start, workers)
    finished = [finish(store, kept, workers.rank == 0) for store, kept in zip(stores, results, strict=True)]
    return finished, unreadable


def _nothing() -> Outputs:
    return torch.zeros((0, TOP), dtype=torch.long), torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.bool)


def _rows(batch: Batch, outputs: Outputs, labels: Sequence[int]) -> Rows:
    """The rows of all images of a batch, unreadable ones included."""
    top, rank, finite = (x.cpu().numpy() for x in outputs)
    every = sorted([*batch.rows, *batch.unreadable])
    rows: Rows = np.zeros(len(every), pred.ROW)
    rows["image"], rows["label"] = every, [labels[i] for i in every]
    rows["rank"], rows["top5"], rows["status"] = pred.NO_CLASS, pred.NO_CLASS, pred.UNREADABLE
    at = np.searchsorted(every, batch.rows)
    rows["top5"][at, : top.shape[1]], rows["rank"][at] = top, rank
    rows["status"][at] = np.where(finite, pred.EVALUATED, pred.NOT_FINITE)
    spoiled = at[~finite]
    rows["rank"][spoiled], rows["top5"][spoiled] = pred.NO_CLASS, pred.NO_CLASS
    return rows
