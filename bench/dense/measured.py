"""The dense tasks of `bench.compare`: what runs, and what is counted.

Segmentation runs UperNet on the backbone. Detection with random weights would find anything or nothing, so it is timed
on the fixed path: proposals are computed, then the box heads score 1000 boxes that are the same for every model, and
the mask heads draw 100 of them, in each stage; the last suppression and the pasting are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import overlock
from bench.cli import BadInput
from bench.cost import modules
from bench.cost.count import COUNTER
from bench.dense.build import build_dense
from bench.dense.cost import DenseCost, dense_cost
from bench.dense.weights import class_numbers, deploy_dense, fitted_dense, load_dense, read_checkpoint
from bench.engine.request import Request
from bench.engine.tasks import Counted, Task
from bench.loading import randomise
from bench.models import Entry
from bench.tasks import BOXES, MASKS, WITHOUT_AUXILIARY, head_of

METHOD = "torch FlopCounterMode, on the meta device"


class FixedPath(nn.Module):
    """A detector on its fixed path, as a module of one tensor: (B, 3, H, W) -> (B, outputs).

    Outputs are probabilities and masks, and the boxes relative to the image: each within 0 and 1.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model

    def forward(self, x: Tensor) -> Tensor:
        boxes, scores, masks = self.model.fixed_path(x, BOXES, MASKS)
        boxes = boxes / max(x.shape[-2:])
        return torch.cat([part.flatten(1) for part in (boxes, scores, masks)], dim=1)


def load(entry: Entry, request: Request) -> nn.Module:
    """The whole model that runs in the request's form, on the CPU: training form first, its weights, then merged.

    Raises:
        BadInput: if a checkpoint is unreadable or another model's.
    """
    s = request.settings
    model = build_dense(entry.name, head_of(request.task, request.head), "train")
    if path := request.checkpoint:
        load_dense(model, read_checkpoint(path), str(path))
    else:
        randomise(model, s.seed)
    overlock.set_backend(model, s.backend)
    if request.form == "deploy":
        model = deploy_dense(model)
    model = model.eval().requires_grad_(False)
    return FixedPath(model) if request.task == "detection" else model


@lru_cache(maxsize=1)
def _cost(name: str, head: str, form: str, size: tuple[int, int]) -> DenseCost:
    with torch.device("meta"):
        model = build_dense(name, head, form)
    return dense_cost(model, size)


def count(request: Request, metric: str) -> Iterator[Counted]:
    """Parameters, or MACs: of the whole, of each part, and by the convention of published figures.

    Raises:
        BadInput: for another metric.
    """
    head = head_of(request.task, request.head)
    if metric not in ("params", "macs"):
        raise BadInput(f"--metrics {metric}: is not counted for --task {request.task}: leave it out")
    cost = _cost(request.model, head, request.form, request.resolution)
    if metric == "params":
        how = "parameters of the structure"
        if auxiliary := sum(part.params for part in cost.parts if part.name == "auxiliary"):
            yield Counted("params", cost.params - auxiliary, f"parameters {WITHOUT_AUXILIARY}", how)
        yield Counted("params", cost.params, "parameters", how)
        return
    yield Counted("macs", cost.module_macs, modules.COUNTER, modules.METHOD)
    for part in cost.parts:
        if part.macs:
            name = {"neck + RPN": "neck_rpn", "RoI heads": "roi_heads"}.get(part.name, part.name)
            yield Counted(f"macs_{name}", part.macs + part.contmix_macs, COUNTER, METHOD)
    yield Counted("macs", cost.macs + cost.contmix_macs, COUNTER, METHOD)


def check_weights(entry: Entry, head: str, path: Path) -> None:
    """Raises BadInput for a file that is no whole checkpoint of this model and head, or one of other classes."""
    with torch.device("meta"):
        model = build_dense(entry.name, head, "train")
    state = read_checkpoint(path)
    asked = f"--weights {entry.name}={path}"
    own, theirs = class_numbers(model, state)
    if own != theirs:
        raise BadInput(
            f"{asked} has {theirs} classes, and heads are measured with the {own} that published figures are of: leave "
            "--weights out, since random weights cost the same; bench.coco and bench.ade20k take it with --categories"
        )
    fitted_dense(model, state, asked)


SEGMENTATION = DETECTION = Task(load, count, check_weights)
