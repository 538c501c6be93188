"""What can be measured of a network: a task builds it, and counts it. Another task is another entry of `TASKS`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from bench import loading
from bench.cli import BadInput
from bench.engine.request import Request
from bench.models import Entry


@dataclass(frozen=True)
class Counted:
    """A cost figure. `counter` names the convention, `method` the tools; `notes` say what was counted on."""

    metric: str
    value: float
    counter: str = ""
    method: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """How networks of a task are built and counted.

    `load(entry, request)` gives the network that runs (CPU, float32, evaluation mode, weights drawn or loaded; its
    input is one tensor of images, B x 3 x H x W). `count(request, metric)` gives the figures of one cost metric, of the
    released structure; it raises `bench.cost.count.CostError` where it cannot count with confidence.
    `check_weights(entry, head, path)` raises BadInput for a file that `load` would refuse, before anything is measured.
    """

    load: Callable[[Entry, Request], nn.Module]
    count: Callable[[Request, str], Iterator[Counted]]
    check_weights: Callable[[Entry, str, Path], None]
    trains: bool = False  # whether a training step of it can be timed


TASKS: Mapping[str, str] = {
    "classification": "bench.engine.tasks:CLASSIFICATION",
    "segmentation": "bench.dense.measured:SEGMENTATION",
    "detection": "bench.dense.measured:DETECTION",
}
"""Task -> `module:name` of its `Task`, imported when it is needed."""


def task_of(name: str) -> Task:
    """The task of that name."""
    module, _, attribute = TASKS[name].partition(":")
    task = getattr(importlib.import_module(module), attribute)
    assert isinstance(task, Task)
    return task


def load(entry: Entry, request: Request) -> nn.Module:
    """A classifier."""
    return loading.load(entry, request.form, request.checkpoint, request.settings.seed, request.settings.backend)


def count(request: Request, metric: str) -> Iterator[Counted]:
    """The figures of one cost metric (params, macs, activations) of a classifier."""
    from bench.cost import count as cost
    from bench.cost import modules

    entry = loading.resolve(request.model)
    keywords = entry.family.structure[request.form]
    model = loading.counted_structure(entry, request.form)
    structure = ", ".join(f"{key}={value}" for key, value in keywords.items())
    on = (f"counted on {structure}",) if structure else ()
    if metric == "params":
        parameters = cost.count_parameters(model)
        yield Counted("params", parameters, "parameters", "parameters of the structure, each once", on)
        if "aux_head" in keywords:
            other = not keywords["aux_head"]
            changed = loading.create_on_meta(entry, **{**keywords, "aux_head": other})
            name = "params_with_aux" if other else "params_without_aux"
            yield Counted(name, cost.count_parameters(changed), "parameters", f"the same with aux_head={other}")
    elif metric == "macs":
        images = torch.empty(1, 3, *request.resolution, device="meta")
        yield Counted(
            "macs", modules.count_modules([model], lambda: model(images)), modules.COUNTER, modules.METHOD, on
        )
        result = cost.count_macs(model, request.resolution)
        left_out = ", ".join(name.removeprefix("aten::") for name in result.left_out)
        yield Counted("macs", result.macs, cost.COUNTER, cost.METHOD, (*on, f"neither counter counts {left_out}"))
    else:
        activations = cost.count_activations(model, request.resolution)
        yield Counted("activations", activations, "fvcore", cost.ACTIVATIONS, on)


def check_weights(entry: Entry, head: str, path: Path) -> None:
    """Raises BadInput for a file that is no checkpoint of this classifier."""
    try:
        loading.read_weights(entry, "deploy", path)
    except BadInput as error:
        raise BadInput(f"{error}; or leave --weights out: random weights cost the same") from error


CLASSIFICATION = Task(load, count, check_weights, trains=True)
