"""The work of `bench.ade20k`."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

import numpy as np
from torch import nn

from bench.dense.data import ADE20K
from bench.dense.evaluate_command import evaluate, header
from bench.dense.evaluation import Pass, Place, Run, evaluate_ade20k
from bench.dense.miou import Counts, from_row, paired_difference, score
from bench.dense.transforms import MULTI_SCALES, SegmentationTest
from bench.models import Entry
from bench.tasks import MULTI_SCALE


class ADE20KEvaluation:
    """Mean IoU, single scale or at several scales with mirroring."""

    name, task, resolution = "ade20k", "segmentation", "2048x512"

    def __init__(self, data: ADE20K, multi_scale: bool) -> None:
        self.data, self.multi_scale = data, multi_scale
        self.variant = MULTI_SCALE if multi_scale else ""
        self._counts: dict[str, dict[str, Counts]] = {}

    def header(self, entry: Entry) -> dict[str, Any]:
        return {"test": asdict(self._test(entry)), **header(self.data.classes)}

    def _test(self, entry: Entry) -> SegmentationTest:
        scales = MULTI_SCALES if self.multi_scale else (1.0,)
        return SegmentationTest(entry.family.second_resize, scales, self.multi_scale)

    def run(self, entry: Entry, model: nn.Module, place: Place, how: Pass) -> Run:
        return evaluate_ade20k(model, self.data, self._test(entry), place, how)

    def figures(self, name: str, run: Run) -> dict[str, float]:
        classes = len(self.data.classes)
        self._counts[name] = {image: from_row(row["counts"], classes) for image, row in run.rows.items()}
        return asdict(score(np.sum(list(self._counts[name].values()), axis=0)))

    def differences(self, resamples: int) -> list[str]:
        *others, last = self._counts
        lines = []
        for name in others:
            first, second = self._counts[name], self._counts[last]
            both = [image for image in first if image in second]
            difference, low, high = paired_difference([first[i] for i in both], [second[i] for i in both], resamples)
            what = f"{name} - {last}: {difference:+.2f} mIoU"
            lines.append(f"{what} (95 % {low:+.2f} to {high:+.2f}, {len(both)} images)")
        return lines


def run(args: argparse.Namespace) -> int:
    """Evaluate each model, print the table, return the exit code."""
    return evaluate(args, ADE20KEvaluation(ADE20K.open(args.data, args.split, args.categories), args.multi_scale))
