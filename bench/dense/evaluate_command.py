"""What `bench.ade20k` and `bench.coco` do alike: each model in turn, its records, one table."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import nn

from bench.cli import OK, BadInput, show
from bench.dense import command
from bench.dense.categories import Classes
from bench.dense.evaluation import Pass, Place, Run
from bench.loading import resolve
from bench.machine.device import choose_device
from bench.machine.environment import collect, now
from bench.models import Entry
from bench.records import store
from bench.records.record import Record, new_run, stamped
from bench.torchrun import Workers


class Evaluation(Protocol):
    """One task's part.

    Attributes:
        name: `ade20k` or `coco`.
        task: as in records.
        variant: as in records.
        resolution: as in records: the limits (long x short) that images are scaled to fit.
        data: the set, with `hash`, `classes`, `expected` images, and `notes` on it.
    """

    name: str
    task: str
    variant: str
    resolution: str
    data: Any

    def header(self, entry: Entry) -> dict[str, Any]:
        """What results depend on beyond model, weights, form, data and dtype."""
        ...

    def run(self, entry: Entry, model: nn.Module, place: Place, how: Pass) -> Run: ...

    def figures(self, name: str, run: Run) -> dict[str, float]:
        """Metric -> percent, of a model whose results are kept for `differences`."""
        ...

    def differences(self, resamples: int) -> list[str]:
        """Each model against the last one."""
        ...


def evaluate(args: argparse.Namespace, evaluation: Evaluation) -> int:
    """Evaluate each model, print the table, return the exit code."""
    if args.save:
        store.check()
    if args.threads:
        torch.set_num_threads(args.threads)
    entries = [resolve(name) for name in args.models]
    data = evaluation.data
    with Workers() as workers:
        place = Place(choose_device(args.device), args.dtype)
        environment = collect(place.device, torch.get_num_threads())
        records: list[Record] = []
        run_id = new_run()
        for entry, weights in zip(entries, args.weights, strict=True):
            model, label = command.load_model(entry.name, args.head, weights, args.form, place.device, data.classes)
            header = {"task": evaluation.name, "model": entry.name, "head": args.head, "form": args.form,
                      "weights": label, "data": data.hash, "dtype": args.dtype, **evaluation.header(entry)}  # fmt: skip
            how = Pass(args.results / f"{entry.name}.{args.head}", header, workers, args.workers)
            run = evaluation.run(entry, model, place, how)
            if not run.rows:
                raise BadInput(f"--data {args.data}: none of its images could be used: {first(run)}")
            if workers.rank > 0:
                continue
            why = reasons(run, data.expected, label)
            common = Record(
                model=entry.name, form=args.form, metric="", value=None, unit="%", resolution=evaluation.resolution,
                task=evaluation.task, head=args.head, variant=evaluation.variant, n=len(run.rows), batch=1,
                dtype=args.dtype, device=place.device, threads=environment.get("threads"), weights=label,
                dataset=data.hash, valid=not why, reasons=why, notes=data.notes, time=now(),
            )  # fmt: skip
            for metric, value in evaluation.figures(entry.name, run).items():
                records.append(stamped(replace(common, metric=metric, value=value), environment, run_id))
        if workers.rank == 0:
            differences = evaluation.differences(args.resamples)
            show(lambda style: command.render(records, differences, environment, style), args)
            if args.save:
                print(f"kept in {store.save(records, environment)}", file=sys.stderr)
    return OK


def header(classes: Classes) -> dict[str, Any]:
    """The part of a header that tells the classes, where they are not the standard ones."""
    return {"classes": classes.mapping} if classes.custom else {}


def first(run: Run) -> str:
    """Why the first images could not be used."""
    return "; ".join(list(run.unreadable.values())[:3])


def reasons(run: Run, expected: int, weights: str) -> tuple[str, ...]:
    """Why a figure is not this model's on the real set: images missing or unreadable, random weights."""
    why = []
    if run.unreadable:
        why.append(f"{len(run.unreadable)} unreadable images: {first(run)}")
    if len(run.rows) != expected:
        why.append(f"{len(run.rows)} images where the real set has {expected}")
    if weights.startswith("random"):
        why.append("random weights: no figure of this model")
    return tuple(why)
