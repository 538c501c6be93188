"""`python -m tests.benchmarks.evaluation_speed --data PATH`: what the harness costs, beside timm's loader, in one run.

Images/s of this loader and of timm's, with the same worker processes and one transform. The time of evaluating four
models together relative to one, of networks that cost next to nothing: under one recipe (shared batches) and under four
models' own (the shared image, resized once for each distinct geometry). And the time of evaluation relative to the bare
network when data is free.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from bench import cli
from bench.accuracy.data import ImageSet, open_images
from bench.accuracy.evaluate import Classifier, Conditions, Run, evaluate, header
from bench.accuracy.loader import Batch, batches
from bench.accuracy.networks import RANDOM, load
from bench.accuracy.predictions import open_store
from bench.accuracy.recipes import Geometry, Recipe, recipe_for
from bench.cli import Parser
from bench.machine.device import choose_device
from bench.models import MODELS
from bench.torchrun import Workers

BATCHES = 8  # of ready images, in the third figure
PARTS = ("decode", "four", "overhead")
FOUR = ("overlock_t", "convnext_b", "unireplknet_t", "moganet_b")


def parser() -> Parser:
    p = Parser(prog="tests.benchmarks.evaluation_speed", description=__doc__)
    p.add_argument("--data", type=Path, required=True, metavar="PATH", help="class folders of images")
    p.add_argument("--model", default="overlock_xt", help="network of the third figure (random weights)")
    p.add_argument("--resolution", type=cli.positive, default=224)
    p.add_argument("--batch-size", type=cli.positive, default=32)
    p.add_argument("--workers", type=cli.positive, default=1)
    p.add_argument("--repeats", type=cli.positive, default=5, help="of each, in turn; the median counts")
    p.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="which of the figures (default: all)")
    p.add_argument("--device", type=cli.device, default="auto")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    images = open_images(args.data, "custom")
    size = (args.resolution, args.resolution)
    own = [recipe_for(MODELS[name], size) for name in FOUR]
    common = [recipe_for(MODELS[name], size, common=True) for name in FOUR]
    conditions = Conditions(choose_device(args.device), batch=args.batch_size, workers=args.workers)
    if "decode" in args.parts:
        ours, timms = in_turn(
            args.repeats,
            lambda: decode(images, [own[0].geometry], args.batch_size, args.workers),
            lambda: decode_by_timm(args.data, own[0], args.batch_size, args.workers),
        )
        print(f"decode, {len(images)} images, {args.workers} workers: {len(images) / ours:.1f} images/s, "
              f"timm's loader {len(images) / timms:.1f}, ratio {timms / ours:.3f}")  # fmt: skip
    if "four" in args.parts:
        one, shared, apart = in_turn(
            args.repeats,
            lambda: evaluate_free(images, own[:1], conditions),
            lambda: evaluate_free(images, common, conditions),
            lambda: evaluate_free(images, own, conditions),
        )
        distinct = len({recipe.geometry for recipe in own})
        print(f"{len(FOUR)} models in one pass, relative to one model: {shared / one:.3f} under one recipe, "
              f"{apart / one:.3f} under their own ({distinct} geometries)")  # fmt: skip
    if "overhead" in args.parts:
        recipe = recipe_for(MODELS[args.model], size)
        bare, harness = overhead(args.model, images, recipe, replace(conditions, workers=0), args.repeats)
        over = 100 * (harness / bare - 1)
        print(f"{args.model} on {conditions.device}, data free: {over:+.2f} % over the bare network")
    return cli.OK


def in_turn(repeats: int, *calls: Callable[[], object]) -> list[float]:
    """Median seconds of each call, run in turn so that a slow spell strikes all."""
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for taken, call in zip(seconds, calls, strict=True):
            start = time.perf_counter()
            call()
            taken.append(time.perf_counter() - start)
    return [median(taken) for taken in seconds]


def decode(images: ImageSet, geometries: list[Geometry], batch: int, workers: int) -> None:
    numbers = range(-(-len(images) // batch))
    wanted = dict.fromkeys(numbers, tuple(range(len(geometries))))
    seen = sum(len(b.rows) for b in batches(images.source, batch, geometries, wanted, workers))
    assert seen == len(images)


def decode_by_timm(data: Path, recipe: Recipe, batch: int, workers: int) -> None:
    """Up to the uint8 batch, as ours: timm's prefetching loader normalises on the device after that."""
    from timm.data import create_dataset, create_loader

    g = recipe.geometry
    made = create_loader(
        create_dataset("", root=str(data)),
        input_size=(3, *g.size),
        batch_size=batch,
        interpolation=g.interpolation,
        crop_pct=g.crop_pct,
        crop_mode=g.crop_mode,
        num_workers=workers,
        persistent_workers=False,
        device=torch.device("cpu"),
    )
    for _ in made.loader:
        pass


class Free(nn.Module):
    """Logits that cost next to nothing: colours of a coarse grid, weighted."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3 * 16, 1000, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, ::64, ::64][:, :, :4, :4].flatten(1) @ self.weight


def evaluate_free(images: ImageSet, recipes: Sequence[Recipe], conditions: Conditions) -> None:
    """Evaluate a `Free` network under each recipe, all in one pass."""
    with tempfile.TemporaryDirectory() as folder:
        runs = []
        for i, recipe in enumerate(recipes):
            about = header(f"free{i}", "train", recipe, RANDOM, images, conditions)
            store = open_store(Path(folder, str(i)), about, len(images), conditions.batch)
            runs.append(Run(Classifier(Free(), recipe, conditions), store))
        evaluate(images, runs, conditions, Workers())
        for run in runs:
            run.store.close()


class Many:
    """As many images as are wanted, none of which is read."""

    labels: Sequence[int] | None = None

    def __init__(self, count: int) -> None:
        self.names, self.sizes = [str(i) for i in range(count)], [-1] * count

    def read(self, i: int) -> bytes:
        raise AssertionError("the batches are ready")


def overhead(name: str, images: ImageSet, recipe: Recipe, conditions: Conditions, repeats: int) -> tuple[float, float]:
    """Seconds of the bare network on ready inputs, and of the evaluation of ready batches, predictions written."""
    size = conditions.batch
    few = ImageSet("custom", Many(BATCHES * size), [0] * (BATCHES * size))
    classifier = Classifier(load(MODELS[name], "deploy", RANDOM)[0], recipe, conditions)
    x = torch.randint(256, (size, 3, *recipe.geometry.size), dtype=torch.uint8, generator=torch.Generator())
    inputs = x.float().div(255).to(conditions.device)

    def ready(*_: object, **__: object) -> Iterator[Batch]:
        return (Batch(k, list(range(k * size, (k + 1) * size)), {0: x}) for k in range(BATCHES))

    def bare() -> None:
        with torch.inference_mode():
            for _ in range(BATCHES):
                classifier.model(inputs)
        synchronise(conditions.device)

    def harness() -> None:
        with tempfile.TemporaryDirectory() as folder:
            about = header(name, "deploy", recipe, RANDOM, few, conditions)
            store = open_store(Path(folder), about, len(few), size)
            evaluate(few, [Run(classifier, store)], conditions, Workers(), load=ready)
            store.close()

    bare()
    assert few.digest  # made once for a set, not once a model
    first, second = in_turn(repeats, bare, harness)
    return first, second


def synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    cli.run("evaluation_speed", main)
