"""The work of `bench.train_imagenet`: from its arguments to a `Training`."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import Mixup, create_transform
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.optim import param_groups_weight_decay
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from bench.accuracy import loader
from bench.accuracy.data import ImageSet, open_images
from bench.accuracy.recipes import Recipe, recipe_for
from bench.cli import OK, BadInput
from bench.evaluation.files import UnreadableImage
from bench.loading import resolve
from bench.machine.device import choose_device
from bench.models import Entry
from bench.torchrun import KEPT, Workers
from bench.training import samples, weights
from bench.training.loop import MEND, Training, train
from bench.training.samples import Shares, seed_all
from bench.training.steps import about, processes
from overlock.checkpoints.download import Unavailable
from overlock.loss import AUX_WEIGHT, AuxiliaryLoss

log = logging.getLogger("bench.train")


def run(args: argparse.Namespace) -> int:
    """Train; returns the exit code."""
    entry, device = resolve(args.model), choose_device(args.device)
    training_set, test_set, tested = _sets(args)
    with processes(args, device, args.output / "last.pth", MEND) as workers:
        share = _share(args, len(training_set), workers)
        classes = _classes(args, training_set)
        seed_all(args.seed, 2)  # the first weights, the same in every process
        model, said = _model(args, entry, classes)
        model.to(device)
        if said:
            log.info("%s", said)
        steps = len(training_set) // args.batch_size
        optimiser = _optimiser(args, model)
        mixup = _mixup(args, classes)
        recipe = recipe_for(entry, args.resolution)
        training = Training(
            model=model,
            ema=ModelEmaV3(model, decay=args.ema_decay) if args.ema_decay else None,
            optimiser=optimiser,
            schedule=CosineLRScheduler(
                optimiser,
                t_initial=args.epochs,
                lr_min=args.min_lr,
                warmup_t=args.warmup,
                warmup_lr_init=args.warmup_lr,
            ),
            loss=_loss(args, mixup),
            mixup=mixup,
            validate=lambda network: _top1(network, test_set, tested, recipe, share, args.workers, device, workers),
            epochs=args.epochs + args.cooldown,
            steps=steps,
            clip=args.clip or None,
            seed=args.seed,
            autocast=torch.bfloat16 if args.dtype == "bfloat16" else None,
            device=device,
            start=said,
        )
        load = partial(_sample, training_set, args.data / "train", _augmentation(args, recipe))

        def batches(start: int) -> Iterator[tuple[Tensor, Tensor]]:
            every = range(start, training.total)
            shares = Shares(len(training_set), args.batch_size, every, args.seed, workers, whole=True)
            return samples.batches(load, shares, args.workers, pin_memory=device != "cpu")

        known = about(args, training_set.named) | {"torchrun": f"{workers.size} processes"}
        train(training, batches, workers, args.output, known, args.every, args.print_every, args.validate_every)
    return OK


def _sets(args: argparse.Namespace) -> tuple[ImageSet, ImageSet, Path]:
    """Training and test images, classes numbered by the training set's folders, and where the latter are."""
    test = next((args.data / name for name in ("val", "validation") if (args.data / name).is_dir()), args.data / "val")
    sets = [open_images(path, "custom") for path in (args.data / "train", test)]
    numbers, names = (images.classes for images in sets)
    if not numbers and not names:  # tables have their labels in a column
        return sets[0], sets[1], test
    if not numbers or not names:
        raise BadInput(
            f"--data {args.data}: one of train and {test.name} has class folders, and the other a column of labels"
        )
    if unknown := sorted(names.keys() - numbers.keys()):
        raise BadInput(f"--data {args.data}: {test.name} has the class {unknown[0]}, which train has not")
    renumbered = {own: numbers[name] for name, own in names.items()}
    return sets[0], replace(sets[1], labels=[renumbered[label] for label in sets[1].labels], classes=numbers), test


def _share(args: argparse.Namespace, count: int, workers: Workers) -> int:
    """Images of a batch in this process."""
    if count < args.batch_size:
        raise BadInput(f"--batch-size {args.batch_size}: --data has {count} training images: give {count} or fewer")
    share: int = args.batch_size // workers.size
    if (args.mixup or args.cutmix) and share % 2:
        raise BadInput(f"--batch-size {args.batch_size}: Mixup pairs images, and {share} a process are odd")
    return share


def _classes(args: argparse.Namespace, images: ImageSet) -> int:
    found, largest = len(images.classes), max([*images.classes.values(), *images.labels])
    if args.num_classes and args.num_classes <= largest:
        raise BadInput(f"--num-classes {args.num_classes}: --data has {found or largest + 1}, up to index {largest}")
    if not args.num_classes and largest >= found > 0:
        raise BadInput(
            f"--data {args.data}: its {found} folders are classes of ImageNet-1K, whose indices go up to {largest}:"
            " give --num-classes 1000; or put a letter before each name, and they are numbered from 0"
        )
    return args.num_classes or largest + 1


def _model(args: argparse.Namespace, entry: Entry, classes: int) -> tuple[nn.Module, str]:
    """The network with its first weights, and what is to be said of them."""
    entry.family.register()
    keywords: dict[str, Any] = dict(entry.family.structure.get("train", {}))
    if args.aux_weight is not None and "aux_head" not in keywords:
        raise BadInput(f"--aux-weight {args.aux_weight}: {entry.name} has no auxiliary head: leave it out")
    if args.aux_weight == 0:
        keywords["aux_head"] = False
    if args.drop_path is not None:
        keywords["drop_path_rate"] = args.drop_path
    had = weights.classes_of(entry, args.weights, keywords)
    if had not in (None, classes) and not args.num_classes:
        raise BadInput(
            f"--weights {args.weights}: it has {had} classes and --data {classes}: give --num-classes {classes} for "
            "a new last layer"
        )
    if args.weights not in ("random", "released"):
        keywords["pretrained_cfg_overlay"] = {"file": args.weights, "num_classes": had}
    try:
        model: Any = timm.create_model(
            entry.name, args.weights != "random", num_classes=classes, drop_rate=args.drop, **keywords
        )
    except (Unavailable, ValueError) as error:
        raise BadInput(f"--weights {args.weights}: {error}") from error
    if args.checkpointing:
        model.set_grad_checkpointing()
    said = f"{args.weights} has {had} classes: the last layer of {classes} begins anew"
    return model, said if had not in (None, classes) else ""


def _optimiser(args: argparse.Namespace, model: nn.Module) -> torch.optim.Optimizer:
    names: Any = getattr(model, "no_weight_decay", tuple)
    spared = names() if args.decay == "weights" else ()
    groups = param_groups_weight_decay(model, args.weight_decay, no_weight_decay_list=spared)
    return torch.optim.AdamW(groups, lr=args.lr * args.batch_size / 1024)


def _mixup(args: argparse.Namespace, classes: int) -> Mixup | None:
    if not (args.mixup or args.cutmix):
        return None
    return Mixup(args.mixup, args.cutmix, label_smoothing=args.smoothing, num_classes=classes)


def _loss(args: argparse.Namespace, mixup: Mixup | None) -> AuxiliaryLoss:
    hard = LabelSmoothingCrossEntropy(args.smoothing) if args.smoothing else None
    weight = AUX_WEIGHT if args.aux_weight is None else args.aux_weight
    return AuxiliaryLoss(SoftTargetCrossEntropy() if mixup else hard, weight)


def _sample(images: ImageSet, where: Path, transform: Callable[[Any], Tensor], i: int) -> tuple[Tensor, int]:
    """A transformed image (3, H, W) and its class."""
    try:
        image = loader.decode(images.source.read(i))
    except MemoryError:
        raise
    except Exception as error:  # decoders raise many kinds; whichever, the image is named
        raise UnreadableImage(f"{where / images.source.names[i]}: {type(error).__name__}: {error}") from error
    return transform(image), images.labels[i]


def _augmentation(args: argparse.Namespace, recipe: Recipe) -> Any:
    try:
        transform: Any = create_transform(
            (3, *args.resolution),
            is_training=True,
            auto_augment=None if args.augment == "none" else args.augment,
            color_jitter=0.4,
            re_prob=args.erase,
            re_mode="pixel",
            interpolation="random",
            mean=recipe.mean,
            std=recipe.std,
        )
    except (AssertionError, LookupError, TypeError, ValueError) as error:
        raise BadInput(
            f"--augment {args.augment}: timm has none of that name ({error}); give none for flips and crops"
        ) from error
    for part in transform.transforms:
        for op in getattr(part, "ops", ()):
            if op.name.startswith("Posterize"):  # keeps 0 bits at the strongest draws, which Pillow refuses
                op.level_fn = partial(_at_least_one, op.level_fn)
    return transform


def _at_least_one(level: Callable[..., tuple[int]], *given: Any) -> tuple[int]:
    return (max(1, *level(*given)),)


def _top1(
    network: nn.Module,
    images: ImageSet,
    where: Path,
    recipe: Recipe,
    batch: int,
    loaders: int,
    device: str,
    workers: Workers,
) -> float:
    """Top-1 in percent under the model's own recipe, each process with its share of the images."""
    mine = workers.share(list(range(-(-len(images) // batch))))
    mean, std = (torch.tensor(x, device=device).view(1, 3, 1, 1) * 255 for x in (recipe.mean, recipe.std))

    def right() -> int:
        number = 0
        for read in loader.batches(images.source, batch, [recipe.geometry], dict.fromkeys(mine, (0,)), loaders):
            for i, reason in read.unreadable.items():
                raise BadInput(
                    f"--data: {where / images.source.names[i]}: {reason}: mend the file, or remove it; {KEPT}"
                )
            logits = network(read.images[0].to(device).float().sub_(mean).div_(std))
            labels = torch.tensor([images.labels[i] for i in read.rows])
            number += int((logits.argmax(1).cpu() == labels).sum())
        return number

    network.eval()
    with torch.inference_mode():
        return 100 * sum(workers.gather(workers.together(right))) / len(images)
