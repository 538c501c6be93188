"""The work of `bench.train_ade20k` and `bench.train_coco`."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, default_collate

from bench.accuracy.networks import RANDOM, RELEASED, released_file
from bench.cli import OK, BadInput
from bench.dense.build import build_dense
from bench.dense.categories import Classes
from bench.dense.data import ADE20K, COCO, UnreadableImage
from bench.dense.detection import DetectionModel
from bench.dense.evaluation import Place
from bench.dense.segmentation import SegmentationModel
from bench.dense.training.augment import (
    DetectionScale,
    SegmentationScale,
    batch_detection,
    detection_sample,
    segmentation_sample,
)
from bench.dense.training.loop import Endless, Schedule, train
from bench.dense.training.losses import DetectionLosses, SegmentationLosses
from bench.dense.training.roi_loss import Objects
from bench.dense.weights import load_backbone, load_start, read_checkpoint
from bench.evaluation.files import some
from bench.files import alone
from bench.loading import resolve
from bench.machine.device import choose_device
from bench.torchrun import MEND_IMAGE, Workers

log = logging.getLogger("bench.train")

ANY = ("weights", "device", "threads", "workers", "output", "every", "print_every", "split", "categories")
"""Arguments that may be others when a stopped training goes on; the set and its classes are told by the set's hash."""


def segmentation(args: argparse.Namespace) -> int:
    """Fine-tune UperNet on ADE20K's training set; returns the exit code."""
    if args.batch_size < 2:
        raise BadInput("--batch-size 1: the batch norm after UperNet's pooling to one pixel needs 2 images or more")
    data = ADE20K.open(args.data, args.split, args.categories)
    data.check_pairs()
    scale = SegmentationScale((args.long, args.short), (args.factors[0], args.factors[1]), (args.crop, args.crop))
    schedule = Schedule(args.iterations, args.lr, args.weight_decay, args.warmup, 1e-6)

    def sample(name: str) -> Any:
        return segmentation_sample(*data.pair(name), scale)

    def losses(model: nn.Module) -> nn.Module:
        assert isinstance(model, SegmentationModel)
        return SegmentationLosses(model)

    return _run(args, data, losses, data.names, sample, default_collate, lambda batches: schedule)


def detection(args: argparse.Namespace) -> int:
    """Fine-tune Mask R-CNN or a cascade on COCO's training set; returns the exit code."""
    data = COCO.open(args.data, args.split, args.categories)
    absent = [name for name in data.names if not (data.root / data.split / name).is_file()]
    if absent:
        raise BadInput(f"--data {args.data}: images of the annotations are not in {data.split}: {some(absent)}")
    names = [name for name in data.names if _annotations(data, name)]
    if not names:
        raise BadInput(f"--data {args.data}: no image of {args.split} has objects of the categories")
    scale = DetectionScale(args.long, tuple(args.shorts))

    def sample(name: str) -> Any:
        return detection_sample(data.image(name), objects_of(data, name), scale)

    def losses(model: nn.Module) -> nn.Module:
        assert isinstance(model, DetectionModel)
        return DetectionLosses(model, args.roi_samples)

    def schedule(batches: int) -> Schedule:
        milestones = {12: (8 / 12, 11 / 12), 36: (27 / 36, 33 / 36)}.get(args.epochs, (0.75, 11 / 12))
        return Schedule(args.epochs * batches, args.lr, args.weight_decay, args.warmup, 1e-3, milestones, args.clip)

    return _run(args, data, losses, names, sample, batch_detection, schedule)


def _annotations(data: COCO, name: str) -> list[Any]:
    """An image's objects, crowds and boxes without area left out."""
    annotations = data.index.imgToAnns.get(data.ids[name], [])
    return [a for a in annotations if not a.get("iscrowd") and min(a["bbox"][2:]) >= 1]


def objects_of(data: COCO, name: str) -> Objects:
    """An image's objects in its own pixels."""
    annotations = _annotations(data, name)
    boxes = torch.tensor([a["bbox"] for a in annotations], dtype=torch.float32)
    boxes[:, 2:] += boxes[:, :2]
    classes = data.classes.of_id
    labels = torch.tensor([classes[a["category_id"]] for a in annotations])
    return Objects(boxes, labels, torch.from_numpy(np.stack([data.index.annToMask(a) for a in annotations])))


class _Samples(Dataset[Any]):
    def __init__(self, names: Sequence[str], load: Callable[[str], Any]) -> None:
        self.names, self.load = names, load

    def __getitem__(self, i: int) -> Any:
        try:
            return self.load(self.names[i])
        except UnreadableImage as error:
            return error  # raised by `_batches`: what a process raises comes with its traceback in the message


def _batch(collate: Callable[[list[Any]], Any], samples: list[Any]) -> Any:
    return next((sample for sample in samples if isinstance(sample, UnreadableImage)), None) or collate(samples)


def _batches(loader: DataLoader[Any]) -> Iterator[Any]:
    for batch in loader:
        if isinstance(batch, UnreadableImage):
            raise BadInput(f"--data: {batch}: {MEND_IMAGE}")
        yield batch


def _run(
    args: argparse.Namespace,
    data: ADE20K | COCO,
    losses: Callable[[nn.Module], nn.Module],
    names: Sequence[str],
    sample: Callable[[str], Any],
    collate: Callable[[list[Any]], Any],
    schedule_of: Callable[[int], Schedule],
) -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if args.threads:
        torch.set_num_threads(args.threads)
    wanted = choose_device(args.device)
    for note in data.notes:
        log.info("%s", note)
    with (
        Workers("nccl" if wanted.startswith("cuda") else "gloo") as workers,
        alone(args.output, "give --output another file") if workers.rank == 0 else nullcontext(),
    ):
        if args.batch_size % workers.size:
            raise BadInput(f"--batch-size {args.batch_size} cannot be shared by {workers.size} processes")
        place = Place(wanted, args.dtype)
        about = {f"--{k.replace('_', '-')}": str(v) for k, v in vars(args).items() if k not in ANY}
        about["--data"] = data.named
        schedule = schedule_of(-(-len(names) // args.batch_size))
        torch.manual_seed(args.seed)
        model, said = _model(args, place, data.classes)
        facts: dict[str, Any] = {"categories": data.classes.mapping} if data.classes.custom else {}
        if said:
            log.info("%s", said)
            facts["start"] = said
        torch.manual_seed(args.seed + 1 + workers.rank)

        def batches(start: int) -> Iterator[Any]:
            sampler = Endless(len(names), workers, start * args.batch_size, args.seed)
            loader = DataLoader(
                _Samples(names, sample), args.batch_size // workers.size, sampler=sampler, num_workers=args.workers,
                collate_fn=partial(_batch, collate), pin_memory=place.device.startswith("cuda"),
            )  # fmt: skip
            return _batches(loader)

        def report(iteration: int, values: dict[str, float]) -> None:
            if workers.rank == 0 and (iteration % args.print_every == 0 or iteration + 1 == schedule.iterations):
                listed = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
                log.info("iteration %d of %d: %s", iteration, schedule.iterations, listed)

        train(losses(model), batches, schedule, place, workers, args.output, args.every, report, about, facts)
    return OK


def _model(args: argparse.Namespace, place: Place, classes: Classes) -> tuple[nn.Module, str]:
    """The model in its training form, with the weights that it starts from, and what is to be said of these."""
    entry = resolve(args.model)
    if args.weights == RELEASED and entry.family.release(entry.name) is None:
        raise BadInput(f"--weights {RELEASED}: {entry.name} is none of the suite's models: give a file, or {RANDOM}")
    drop_path = {} if args.drop_path is None else {"drop_path_rate": args.drop_path}
    model: Any = build_dense(entry.name, args.head, "train", classes=len(classes), **drop_path)
    said = ""
    if args.weights != RANDOM:
        path = released_file(entry) if args.weights == RELEASED else Path(args.weights)
        state = read_checkpoint(path)
        if any(name.startswith("backbone.") for name in state):
            said = load_start(model, state, path, classes)
        else:
            load_backbone(model.backbone, state, str(path))
    model.to(place.device)
    return model, said
