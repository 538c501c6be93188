"""The work of `bench.coco`."""

from __future__ import annotations

import argparse
from typing import Any

from pycocotools.cocoeval import COCOeval
from torch import nn

from bench.dense.average_precision import KINDS, average_precision, evaluated, paired_difference
from bench.dense.data import COCO
from bench.dense.evaluate_command import evaluate, header
from bench.dense.evaluation import Pass, Place, Row, Run, evaluate_coco
from bench.models import Entry

NAMES = {"bbox": "box", "segm": "mask"}


class COCOEvaluation:
    """Average precision of boxes and masks."""

    name, task, variant, resolution = "coco", "detection", "", "1333x800"

    def __init__(self, data: COCO) -> None:
        self.data = data
        self._detections: dict[str, dict[str, list[Row]]] = {}

    def header(self, entry: Entry) -> dict[str, Any]:
        return header(self.data.classes)

    def run(self, entry: Entry, model: nn.Module, place: Place, how: Pass) -> Run:
        return evaluate_coco(model, self.data, place, how)

    def figures(self, name: str, run: Run) -> dict[str, float]:
        self._detections[name] = {image: row["detections"] for image, row in run.rows.items()}
        figures: dict[str, float] = {}
        for kind in KINDS:
            values = average_precision(self._evaluation(name, list(self._detections[name]), kind))
            figures |= {f"{NAMES[kind]} {metric}": value for metric, value in values.items()}
        return figures

    def _evaluation(self, name: str, images: list[str], kind: str) -> COCOeval:
        rows = [{"image_id": self.data.ids[image], **row} for image in images for row in self._detections[name][image]]
        return evaluated(self.data.index, rows, kind, [self.data.ids[image] for image in images])

    def differences(self, resamples: int) -> list[str]:
        *others, last = self._detections
        lines = []
        for name in others:
            both = [image for image in self._detections[name] if image in self._detections[last]]
            for kind in KINDS:
                first, second = (self._evaluation(model, both, kind) for model in (name, last))
                difference, low, high = paired_difference(first, second, resamples)
                what = f"{name} - {last}: {difference:+.2f} {NAMES[kind]} AP"
                lines.append(f"{what} (95 % {low:+.2f} to {high:+.2f}, {len(both)} images)")
        return lines


def run(args: argparse.Namespace) -> int:
    """Evaluate each model, print the table, return the exit code."""
    return evaluate(args, COCOEvaluation(COCO.open(args.data, args.split, args.categories)))
