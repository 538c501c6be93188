"""What can be measured of a network: a task builds it, and counts it. Another task is another entry of `TASKS`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from bench.engine.job import Job
from bench.engine.side import Side
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

    `load(entry, job)` gives the network that runs (CPU, float32, evaluation mode, weights drawn or loaded; its input
    is one tensor of images, B x 3 x H x W). `count(job, metric)` gives the figures of one cost metric, of the released
    structure; it raises `bench.cost.count.CostError` where it cannot count with confidence.
    """

    load: Callable[[Entry, Job | Side], nn.Module]
    count: Callable[[Job, str], Iterator[Counted]]
    trains: bool = False  # whether a training step of it can be timed


def _load(entry: Entry, job: Job | Side) -> nn.Module:

    from bench import loading

    s = job.settings
    weights = Path(s.weights[job.model]) if s.weights.get(job.model) else None
    return loading.load(entry, job.form, weights, s.seed, s.backend)


def _count(job: Job, metric: str) -> Iterator[Counted]:
    from bench.cost import count as cost

    return cost.figures(job, metric)


CLASSIFICATION = Task(_load, _count, trains=True)

TASKS: Mapping[str, str] = {
    "classification": "bench.engine.tasks:CLASSIFICATION",
    "segmentation": "bench.dense.measured:SEGMENTATION",
    "detection": "bench.dense.measured:DETECTION",
}
"""Task -> `module:name` of its `Task`, imported when it is needed."""


def task_of(job: Job | Side) -> Task:
    """The task of a job or a side."""
    module, _, name = TASKS[job.task].partition(":")
    found = getattr(importlib.import_module(module), name)
    assert isinstance(found, Task)
    return found
