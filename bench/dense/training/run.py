"""The work of `bench.train_ade20k` and `bench.train_coco`."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from bench.accuracy.networks import RANDOM, RELEASED, released_file
from bench.cli import OK, BadInput
from bench.dense.build import build_dense
from bench.dense.categories import Classes
from bench.dense.data import ADE20K, COCO
from bench.dense.evaluation import Place
from bench.dense.training.augment import (
    DetectionScale,
    SegmentationScale,
    batch_detection,
    detection_sample,
    segmentation_sample,
)
from bench.dense.training.loop import MEND, Schedule, train
from bench.dense.training.losses import DetectionLosses, SegmentationLosses
from bench.dense.training.roi_loss import Objects
from bench.dense.weights import load_backbone, load_start, read_checkpoint
from bench.evaluation.files import some
from bench.loading import resolve
from bench.machine.device import choose_device
from bench.training import samples
from bench.training.samples import Shares
from bench.training.steps import FREE, about, processes

log = logging.getLogger("bench.train")


def segmentation(args: argparse.Namespace) -> int:
    """Fine-tune UperNet on ADE20K's training set; returns the exit code."""
    if args.batch_size < 2:
        raise BadInput("--batch-size 1: the batch norm after UperNet's pooling to one pixel needs 2 images or more")
    data = ADE20K.open(args.data, args.split, args.categories)
    data.check_pairs()
    scale = SegmentationScale((args.long, args.short), (args.factors[0], args.factors[1]), (args.crop, args.crop))
    schedule = Schedule(args.iterations, args.lr, args.weight_decay, args.warmup, 1e-6)
    load = partial(_segmentation, data, scale)
    return _run(args, data, SegmentationLosses, len(data.names), load, default_collate, schedule)


def _segmentation(data: ADE20K, scale: SegmentationScale, i: int) -> tuple[Tensor, Tensor]:
    return segmentation_sample(*data.pair(data.names[i]), scale)


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
    milestones = {12: (8 / 12, 11 / 12), 36: (27 / 36, 33 / 36)}.get(args.epochs, (0.75, 11 / 12))
    iterations = args.epochs * -(-len(names) // args.batch_size)
    schedule = Schedule(iterations, args.lr, args.weight_decay, args.warmup, 1e-3, milestones, args.clip)
    losses = partial(DetectionLosses, number=args.roi_samples)
    load = partial(_detection, data, names, scale)
    return _run(args, data, losses, len(names), load, batch_detection, schedule)


def _detection(data: COCO, names: Sequence[str], scale: DetectionScale, i: int) -> tuple[Tensor, Objects]:
    return detection_sample(data.image(names[i]), objects_of(data, names[i]), scale)


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


def _run(
    args: argparse.Namespace,
    data: ADE20K | COCO,
    losses: Callable[[Any], nn.Module],
    images: int,
    load: Callable[[int], Any],
    collate: Callable[[list[Any]], Any],
    schedule: Schedule,
) -> int:
    place = Place(choose_device(args.device), args.dtype)
    with processes(args, place.device, args.output, MEND) as workers:
        for note in data.notes:
            log.info("%s", note)
        torch.manual_seed(args.seed)
        model, said = _model(args, place, data.classes)
        if said:
            log.info("%s", said)

        def batches(start: int) -> Iterator[Any]:
            every = range(start, schedule.iterations)
            shares = Shares(images, args.batch_size, every, args.seed, workers, whole=False)
            return samples.batches(load, shares, args.workers, place.device.startswith("cuda"), collate)

        facts: dict[str, Any] = {"start": said, **({"categories": data.classes.mapping} if data.classes.custom else {})}
        known = about(args, data.named, (*FREE, "split", "categories"))  # the data's identity tells these two
        train(
            losses(model), batches, schedule, place, workers, args.output, known, facts,
            seed=args.seed, every=args.every, print_every=args.print_every,
        )  # fmt: skip
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
