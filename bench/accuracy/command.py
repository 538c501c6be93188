"""The work of `bench.top1`: the networks and the images that its arguments name, one pass, records, one table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from bench.accuracy import report
from bench.accuracy.data import ImageSet, open_images
from bench.accuracy.evaluate import Classifier, Conditions, Run, evaluate, header
from bench.accuracy.labels import real_labels
from bench.accuracy.networks import FINE_TUNED, load, source, trained_at
from bench.accuracy.predictions import key, open_store
from bench.accuracy.recipes import recipe_for
from bench.cli import OK, BadInput, show
from bench.engine.check import check_backend
from bench.loading import resolve
from bench.machine.device import choose_device
from bench.machine.environment import collect
from bench.models import Entry
from bench.records import store
from bench.records.record import Record, new_run, stamped
from bench.torchrun import Workers


def run(args: argparse.Namespace, weights: Mapping[str, str], baseline: str) -> int:
    """Evaluate each model, print the table, and return the exit code.

    Args:
        args: of `bench.top1`.
        weights: name of a model -> `released`, `random` or the path of its checkpoint.
        baseline: name of the model that the others are compared with.
    """
    if args.threads:
        torch.set_num_threads(args.threads)
    with Workers() as workers, ExitStack() as stack:
        conditions = Conditions(
            device=choose_device(args.device, [args.dtype]),
            dtype=args.dtype,
            layout=args.layout,
            compile=args.compile,
            batch=args.batch_size,
            workers=args.workers,
        )
        conditions.apply()
        check_backend(args.backend)
        entries = {resolve(name): given for name, given in weights.items()}
        images = open_images(args.data, args.dataset, args.labels, args.allow_missing)
        names = images.source.names
        real = None if args.real is None else real_labels(names, Path(args.real) if args.real else None)
        runs = []
        for one in prepare(args, entries, images, conditions, workers.rank):
            stack.callback(one.store.close)
            runs.append(one)
        if workers.rank == 0:
            images.save_manifest(args.results)
        finished, unreadable = evaluate(images, runs, conditions, workers)
        environment, run_id = collect(conditions.device, torch.get_num_threads()), new_run()
        seen = report.Seen(names, unreadable, args.allow_missing, real, images.notes)
        records = [
            stamped(replace(record, threads=environment.get("threads")), environment, run_id)
            for predictions, one in zip(finished, runs, strict=True)
            for record in report.records(predictions, str(one.classifier.recipe), seen)
        ]
        if workers.rank == 0:
            compared = report.comparisons(finished, baseline)
            show(lambda style: report.render(records, compared, environment, style), args)
            if args.save:
                print(f"kept in {store.save(records, environment)}", file=sys.stderr)
        return verdict(records)


def prepare(
    args: argparse.Namespace, weights: Mapping[Entry, str], images: ImageSet, conditions: Conditions, rank: int
) -> Iterator[Run]:
    """A run for each model, form and resolution; a model is loaded once for all resolutions that share its weights."""
    classes = {"num_classes": args.num_classes} if args.num_classes else {}
    for entry, given in weights.items():
        for form in entry.forms(args.form):
            loaded: dict[str, tuple[nn.Module, str]] = {}
            for size in dict.fromkeys(args.resolutions or [None]):
                recipe = recipe_for(entry, size, args.recipe == "common", args.crop_pct)
                of = source(entry, given, recipe.geometry.size)
                if of not in loaded:
                    loaded[of] = load(entry, form, of, args.backend, args.num_classes)
                model, label = loaded[of]
                classifier = Classifier(model, recipe, conditions, images.subset)
                try:
                    backend = classifier.check(images.labels)
                except BadInput as error:
                    raise BadInput(f"{entry.name}: {error}") from error
                about = header(
                    entry.name, form, recipe, label, images, conditions,
                    backend=backend, trained_at=trained_at(entry, of), fine_tuned=of.startswith(FINE_TUNED), **classes,
                )  # fmt: skip
                yield Run(classifier, open_store(args.results / key(about), about, len(images), conditions.batch, rank))


def verdict(records: Sequence[Record]) -> int:
    """OK, unless a row is spoiled by anything but weights that were asked to be random."""
    for record in records:
        bad = [reason for reason in record.reasons if not reason.startswith("random weights")]
        if bad:
            raise BadInput(f"{record.model} {record.form} {record.resolution} is not valid: {bad[0]}")
    return OK
