"""The work of `bench.coco`."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import torch

from bench.cli import BAD_INPUT, OK
from bench.dense import verb
from bench.dense.average_precision import KINDS, average_precision, evaluated, paired_difference
from bench.dense.data import COCO
from bench.dense.evaluation import Place, evaluate_coco
from bench.dense.journal import Workers
from bench.measure.environment import collect, now
from bench.measure.subject import resolve
from bench.records import Record

NAMES = {"bbox": "box", "segm": "mask"}


def run(args: argparse.Namespace) -> int:
    """Evaluate each model, print the table, return the exit code."""
    if args.threads:
        torch.set_num_threads(args.threads)
    entries = [resolve(name) for name in args.models]
    data = COCO.open(args.data)
    with Workers() as workers:
        place = Place(verb.place_device(args.device, workers.rank), args.dtype)
        environment = collect(place.device, torch.get_num_threads())
        records: list[Record] = []
        results: dict[str, dict[str, Any]] = {}
        for entry, weights in zip(entries, args.weights, strict=True):
            model, label = verb.load_model(entry.name, args.head, weights, args.form, place.device)
            header = {"task": "coco", "model": entry.name, "head": args.head, "form": args.form, "weights": label,
                      "data": data.hash, "dtype": args.dtype}  # fmt: skip
            found = evaluate_coco(
                model, data, place, folder=args.results / f"{entry.name}.{args.head}", header=header,
                workers=workers, loaders=args.workers, quiet=not sys.stderr.isatty(),
            )  # fmt: skip
            if not found.rows:
                print(f"bench.coco: error: no image of {args.data} could be read", file=sys.stderr)
                return BAD_INPUT
            results[entry.name] = {row["image"]: row["detections"] for row in found.rows}
            if workers.rank > 0:
                continue
            why = verb.reasons(found, data.expected)
            for kind in KINDS:
                evaluation = _evaluation(data, results[entry.name], list(results[entry.name]), kind)
                for metric, value in average_precision(evaluation).items():
                    records.append(
                        Record(
                            model=entry.name, form=args.form, metric=f"{NAMES[kind]} {metric}", value=value, unit="%",
                            resolution="1333x800", task="detection", n=len(found.rows), method=args.head, batch=1,
                            dtype=args.dtype, device=place.device, machine=environment["machine"], weights=label,
                            dataset=data.hash, commit=environment["commit"], dirty=environment["dirty"],
                            valid=not why, reasons=why, time=now(),
                        )
                    )  # fmt: skip
        if workers.rank == 0:
            text = verb.render(records, _differences(data, results, args.resamples), environment, args.format)
            verb.write(text, args.output)
    return OK


def _evaluation(data: COCO, results: dict[str, Any], images: list[str], kind: str) -> Any:
    rows = [{"image_id": data.ids[image], **row} for image in images for row in results[image]]
    return evaluated(data.index, rows, kind, [data.ids[image] for image in images])


def _differences(data: COCO, results: dict[str, dict[str, Any]], resamples: int) -> list[str]:
    """Each model against the last one, on the images that both saw."""
    *others, last = results
    lines = []
    for name in others:
        both = [image for image in results[name] if image in results[last]]
        for kind in KINDS:
            first, second = (_evaluation(data, results[model], both, kind) for model in (name, last))
            difference, low, high = paired_difference(first, second, resamples)
            what = f"{name} - {last}: {difference:+.2f} {NAMES[kind]} AP"
            lines.append(f"{what} (95 % {low:+.2f} to {high:+.2f}, {len(both)} images)")
    return lines
