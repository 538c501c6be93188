"""The training loop of both tasks: optimiser, schedule, processes, and a state on disk to go on from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Sampler

from bench.cli import BadInput
from bench.dense.evaluation import AUTOCAST, Place
from bench.dense.weights import check_names
from bench.torchrun import Workers

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Schedule:
    """AdamW's settings and the learning rate over the iterations, after a linear warm-up from `warmup_factor`.

    It falls by ten at each of `milestones` (shares of the whole), or where there are none in a straight line to 0.
    """

    iterations: int
    lr: float
    weight_decay: float
    warmup: int
    warmup_factor: float
    milestones: tuple[float, ...] = ()
    clip: float | None = None  # largest norm of the gradient

    def factor(self, iteration: int) -> float:
        """The learning rate's factor at an iteration, from 0."""
        start = self.warmup_factor + (1 - self.warmup_factor) * min(1.0, iteration / max(self.warmup, 1))
        if self.milestones:
            return start * 0.1 ** sum(iteration >= share * self.iterations for share in self.milestones)
        return start * (1 - iteration / self.iterations)


def optimiser_for(model: nn.Module, schedule: Schedule) -> torch.optim.AdamW:
    """AdamW whose weight decay spares what has one axis (norms, biases, scales) and relative-position biases."""
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        one_axis = parameter.numel() == max(parameter.shape, default=1)
        (spared if one_axis or "rpb" in name else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": schedule.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=schedule.lr)


class Endless(Sampler[int]):
    """Indices without end, shuffled anew each epoch, shared between the processes; the same again from any start."""

    def __init__(self, count: int, workers: Workers, start: int = 0, seed: int = 0) -> None:
        self.count, self.workers, self.start, self.seed = count, workers, start, seed

    def __iter__(self) -> Iterator[int]:
        position = self.start + self.workers.rank
        epoch, order = -1, torch.empty(0)
        while True:
            if position // self.count != epoch:
                epoch = position // self.count
                order = torch.randperm(self.count, generator=torch.Generator().manual_seed(self.seed + epoch))
            yield int(order[position % self.count])
            position += self.workers.size


def train(
    losses: nn.Module,
    batches: Callable[[int], Iterator[Sequence[Any]]],
    schedule: Schedule,
    place: Place,
    workers: Workers,
    state: Path,
    every: int = 1000,
    report: Callable[[int, dict[str, float]], None] = lambda iteration, values: None,
    about: Mapping[str, str] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Train `losses.model` in place; goes on from `state` where that exists, and writes it `every` iterations.

    Args:
        losses: a module that returns a dictionary of losses of a batch.
        batches: iteration to start from -> batches without end, on the CPU.
        report: is called with an iteration's number and its losses.
        about: what else the weights depend on; `state` keeps it, and is refused where it differs.
        facts: what else `state` tells of the weights, from their first training on.

    Raises:
        BadInput: where `state` is of another run, or a loss is not finite.
    """
    model: Any = losses.to(place.device).train()
    optimiser = optimiser_for(model, schedule)
    start, known = _resume(state, model, optimiser, schedule, place.device, about or {})
    told = {"about": dict(about or {}), **(facts or {}), **known}
    if workers.size > 1:
        if place.device.startswith("cuda"):
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        model = DistributedDataParallel(model, [place.device] if place.device.startswith("cuda") else None)
    dtype, kind = AUTOCAST[place.dtype], place.device.split(":")[0]
    source = batches(start)

    def keep(done: int) -> None:
        if workers.rank == 0:
            _save(state, losses, optimiser, schedule, done, told)

    for iteration in range(start, schedule.iterations):
        batch = workers.together(partial(next, source), partial(keep, iteration))
        for group in optimiser.param_groups:
            group["lr"] = schedule.lr * schedule.factor(iteration)
        with torch.autocast(kind, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            values: dict[str, Tensor] = model(*_moved(batch, place.device))
        total = torch.stack(list(values.values())).sum()
        if not total.isfinite():
            raise BadInput(f"the loss is not finite at iteration {iteration}: {_values(values)}: give a lower --lr")
        optimiser.zero_grad()
        total.backward()
        if schedule.clip is not None:
            nn.utils.clip_grad_norm_(losses.parameters(), schedule.clip)
        optimiser.step()
        report(iteration, _values(values))
        if (iteration + 1) % every == 0 or iteration + 1 == schedule.iterations:
            keep(iteration + 1)


def _values(losses: dict[str, Tensor]) -> dict[str, float]:
    return {name: loss.item() for name, loss in losses.items()}


def _moved(value: Any, device: str) -> Any:
    """Tensors, also within lists and dataclasses, on a device."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, list | tuple) and any(not isinstance(v, int | float) for v in value):
        return [_moved(v, device) for v in value]
    if hasattr(value, "__dataclass_fields__"):
        return type(value)(*(_moved(getattr(value, name), device) for name in value.__dataclass_fields__))
    return value


def _save(
    path: Path,
    losses: Any,
    optimiser: torch.optim.Optimizer,
    schedule: Schedule,
    iteration: int,
    told: Mapping[str, Any],
) -> None:
    """Replaced as a whole: a kill leaves the one before. `state_dict` has the released names. The caller alone writes
    there (`bench.files.alone`)."""
    content = {
        "meta": {**told, "iteration": iteration, "schedule": repr(schedule)},
        "state_dict": losses.model.state_dict(),
        "optimiser": optimiser.state_dict(),
    }
    partial = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, partial)
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        raise BadInput(f"cannot write {path}: {error}") from error
    log.info("wrote %s at iteration %d", path, iteration)


def _resume(
    path: Path, losses: Any, optimiser: Any, schedule: Schedule, device: str, about: Mapping[str, str]
) -> tuple[int, dict[str, Any]]:
    """How many iterations are done, and what is told of how they began."""
    if not path.exists():
        return 0, {}
    mend = "give --output another file"
    try:
        content = torch.load(path, map_location=device, weights_only=True)
        meta, state, moments = content["meta"], content["state_dict"], content["optimiser"]
        iteration, known = int(meta["iteration"]), str(meta["schedule"])
    except Exception as error:  # what kind it is depends on what the file is instead
        raise BadInput(f"--output {path} is there and is no state of this training: {mend}") from error
    if known != repr(schedule):
        raise BadInput(f"{path} is of another schedule ({known}): {mend}")
    differ = [name for name, value in about.items() if meta.get("about", about).get(name) != value]
    if differ:
        raise BadInput(f"--output {path} is of a run with other {', '.join(differ)}: {mend}")
    check_names(state, losses.model.state_dict(), str(path), f"of another model than --model and --head: {mend}")
    losses.model.load_state_dict(state)
    try:
        optimiser.load_state_dict(moments)
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"--output {path} has a damaged state of the optimiser: {mend}") from error
    log.info("goes on from iteration %d of %s", iteration, path)
    return iteration, {"start": meta["start"]} if "start" in meta else {}
