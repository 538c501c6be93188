"""The work of `bench.ade20k`."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from typing import Any

import torch

from bench.cli import BAD_INPUT, OK
from bench.dense import verb
from bench.dense.data import ADE20K
from bench.dense.evaluation import Place, evaluate_ade20k
from bench.dense.journal import Workers
from bench.dense.miou import from_row, paired_difference, score
from bench.dense.transforms import MULTI_SCALES, SECOND_RESIZE, SegmentationTest
from bench.measure.environment import collect, now
from bench.measure.subject import resolve
from bench.records import Record


def run(args: argparse.Namespace) -> int:
    """Evaluate each model, print the table, return the exit code."""
    if args.threads:
        torch.set_num_threads(args.threads)
    entries = [resolve(name) for name in args.models]
    data = ADE20K.open(args.data)
    with Workers() as workers:
        place = Place(verb.place_device(args.device, workers.rank), args.dtype)
        environment = collect(place.device, torch.get_num_threads())
        records: list[Record] = []
        counts: dict[str, dict[str, Any]] = {}
        for entry, weights in zip(entries, args.weights, strict=True):
            model, label = verb.load_model(entry.name, args.head, weights, args.form, place.device)
            second = SECOND_RESIZE.get(entry.family.name, "bilinear")
            test = SegmentationTest(second, MULTI_SCALES if args.multi_scale else (1.0,), args.multi_scale)
            header = {"task": "ade20k", "model": entry.name, "head": args.head, "form": args.form, "weights": label,
                      "data": data.hash, "dtype": args.dtype, "test": asdict(test)}  # fmt: skip
            found = evaluate_ade20k(
                model, data, test, place, folder=args.results / f"{entry.name}.{args.head}", header=header,
                workers=workers, loaders=args.workers, quiet=not sys.stderr.isatty(),
            )  # fmt: skip
            if not found.rows:
                print(f"bench.ade20k: error: no image of {args.data} could be read", file=sys.stderr)
                return BAD_INPUT
            counts[entry.name] = {row["image"]: from_row(row["counts"]) for row in found.rows}
            sums = sum(counts[entry.name].values())
            why = verb.reasons(found, data.expected)
            for metric, value in asdict(score(sums)).items():
                records.append(
                    Record(
                        model=entry.name, form=args.form, metric=metric, value=value, unit="%", resolution="2048x512",
                        task="segmentation", n=len(found.rows), method=f"{args.head}, {_protocol(test)}", batch=1,
                        dtype=args.dtype, device=place.device, machine=environment["machine"], weights=label,
                        dataset=data.hash, commit=environment["commit"], dirty=environment["dirty"],
                        valid=not why, reasons=why, time=now(),
                    )
                )  # fmt: skip
        if workers.rank == 0:
            text = verb.render(records, _differences(counts, args.resamples), environment, args.format)
            verb.write(text, args.output)
    return OK


def _protocol(test: SegmentationTest) -> str:
    return "multi-scale and flip" if test.flip else "single scale"


def _differences(counts: dict[str, dict[str, Any]], resamples: int) -> list[str]:
    """Each model against the last one, on the images that both saw."""
    *others, last = counts
    lines = []
    for name in others:
        both = [image for image in counts[name] if image in counts[last]]
        difference, low, high = paired_difference(
            [counts[name][i] for i in both], [counts[last][i] for i in both], resamples
        )
        lines.append(f"{name} - {last}: {difference:+.2f} mIoU (95 % {low:+.2f} to {high:+.2f}, {len(both)} images)")
    return lines
