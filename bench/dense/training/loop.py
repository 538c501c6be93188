"""The training loop of both tasks: optimiser, schedule, and a state on disk to go on from.

What is random in an iteration is drawn by generators that are seeded by its number, so that a run that was stopped
anywhere ends with the weights of one that was not.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from bench.dense.evaluation import AUTOCAST, Place
from bench.machine.device import autocast
from bench.torchrun import Workers
from bench.training import state
from bench.training.samples import seed_all
from bench.training.steps import descend, distributed

log = logging.getLogger("bench.train")

MEND = "give --output another file"


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


def train(
    losses: nn.Module,
    batches: Callable[[int], Iterator[Sequence[Any]]],
    schedule: Schedule,
    place: Place,
    workers: Workers,
    path: Path,
    about: Mapping[str, str],
    facts: Mapping[str, Any],
    seed: int,
    every: int,
    print_every: int,
) -> None:
    """Train `losses.model` in place; goes on from the file at `path` where there is one, and writes it.

    Args:
        losses: a module that returns a dictionary of losses of a batch.
        batches: iteration to start from -> this process's batches of all iterations from there, on the CPU.
        about: what else the weights depend on; the file is refused where it differs.
        facts: what else the file says of the weights, from their first training on (`start`: of the first weights).
        every: iterations between two writings.

    Raises:
        BadInput: where the file is of another run, or a loss is not finite.
    """
    optimiser = optimiser_for(losses.to(place.device).train(), schedule)
    model: Any = losses.model
    meta = {"iteration": 0, "about": {**about, "schedule": repr(schedule)}, **facts}

    def take(content: dict[str, Any]) -> None:
        model.load_state_dict(content["state_dict"])
        optimiser.load_state_dict(content["optimiser"])
        meta.update({name: content["meta"].get(name, "") for name in ("iteration", "start")})
        if meta["iteration"] not in range(schedule.iterations + 1):
            raise ValueError(f"iteration {meta['iteration']} of {schedule.iterations}")

    if state.restore(path, meta["about"], place.device, MEND, take):
        log.info("goes on from iteration %d of %s", meta["iteration"], path)
    network = distributed(losses, place.device, workers)
    start: int = meta["iteration"]
    source = batches(start)

    def keep() -> None:
        if workers.rank == 0:
            states = {"state_dict": model.state_dict(), "optimiser": optimiser.state_dict()}
            state.save(path, {"meta": meta, **states})
            log.info("wrote %s at iteration %d", path, meta["iteration"])

    for iteration in range(start, schedule.iterations):
        batch = workers.together(partial(next, source), keep)
        seed_all(seed, 1, iteration, workers.rank)
        for group in optimiser.param_groups:
            group["lr"] = schedule.lr * schedule.factor(iteration)
        moved = tree_map_only(Tensor, lambda x: x.to(place.device, non_blocking=True), list(batch))
        with autocast(place.device, AUTOCAST[place.dtype]):
            parts: dict[str, Tensor] = network(*moved)
        values = {name: loss.item() for name, loss in parts.items()}
        total = torch.stack(list(parts.values())).sum()
        descend(total, values, losses, optimiser, schedule.clip, f"iteration {iteration}")
        meta["iteration"] = iteration + 1
        if workers.rank == 0 and (iteration % print_every == 0 or iteration + 1 == schedule.iterations):
            listed = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
            log.info("iteration %d of %d: %s", iteration, schedule.iterations, listed)
        if (iteration + 1) % every == 0 or iteration + 1 == schedule.iterations:
            keep()
