"""The training loop of a classifier: every step is a function of its number and of the state before it.

What is random in a step (augmentation, Mixup, stochastic depth) is drawn by generators that are seeded by the step's
number, so that a run that was stopped anywhere ends with the numbers of one that was not.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.data import Mixup
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3, distribute_bn
from torch import Tensor, nn

from bench.cli import BadInput, write_whole
from bench.files import parse_csv, read_text
from bench.machine.device import autocast
from bench.torchrun import Workers
from bench.training import state
from bench.training.samples import seed_all
from bench.training.steps import descend, distributed
from overlock.loss import AuxiliaryLoss

log = logging.getLogger("bench.train")

MEND = "give --output another folder"


@dataclass
class Training:
    """What is trained, how, and what moves while it is.

    `validate` gives top-1 (in percent) of a network.
    """

    model: nn.Module
    ema: ModelEmaV3 | None
    optimiser: torch.optim.Optimizer
    schedule: CosineLRScheduler
    loss: AuxiliaryLoss
    mixup: Mixup | None
    validate: Callable[[nn.Module], float]
    epochs: int
    steps: int  # an epoch
    clip: float | None
    seed: int
    autocast: torch.dtype | None
    device: str
    step: int = 0  # how many are done
    best: float = -1.0
    start: str = ""  # what is said of the first weights
    sums: dict[str, float] = field(default_factory=dict)  # of the epoch's losses so far

    @property
    def total(self) -> int:
        return self.epochs * self.steps

    def content(self, about: dict[str, str], sums: list[dict[str, float]]) -> dict[str, Any]:
        """What `bench.training.state` keeps, with every process's `sums`; readers of checkpoints find the averaged
        weights first."""
        averaged = {} if self.ema is None else {"state_dict_ema": self.ema.module.state_dict()}
        meta = {"step": self.step, "best": self.best, "sums": sums, "about": about, "start": self.start}
        return {
            **averaged,
            "state_dict": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "meta": meta,
        }

    def restore(self, content: dict[str, Any], rank: int) -> None:
        """Go on from what `content` gave."""
        self.model.load_state_dict(content["state_dict"])
        if self.ema is not None:
            self.ema.module.load_state_dict(content["state_dict_ema"])
        self.optimiser.load_state_dict(content["optimiser"])
        meta = content["meta"]
        self.step, self.best, self.sums = meta["step"], meta["best"], dict(meta["sums"][rank])
        if self.step not in range(self.total + 1):
            raise ValueError(f"step {self.step} of {self.total}")
        self.start = meta.get("start", "")


def train(
    training: Training,
    batches: Callable[[int], Iterator[tuple[Tensor, Tensor]]],
    workers: Workers,
    folder: Path,
    about: dict[str, str],
    every: int,
    print_every: int,
    validate_every: int,
) -> None:
    """Train to the end, from the state in `folder` where there is one; keeps `last.pth`, `best.pth` and `log.csv`.

    Args:
        batches: step to start from -> this process's batches (images, classes) of all steps from there, on the CPU.
        about: what the weights depend on.

    Raises:
        BadInput: where the state is of another run, or a loss is not finite.
    """
    t, last = training, folder / "last.pth"
    if workers.rank == 0:
        state.restore(folder / "best.pth", about, "cpu", MEND)  # what is there is written over
        _lines(folder / "log.csv")
    if state.restore(last, about, t.device, MEND, lambda content: t.restore(content, workers.rank)):
        log.info("goes on from step %d of %d of %s", t.step, t.total, last)
    network = distributed(t.model, t.device, workers)
    source = batches(t.step)
    clock = _Clock(t)

    def keep() -> None:
        sums = workers.gather(t.sums)
        if workers.rank == 0:
            state.save(last, t.content(about, sums))

    while True:
        epoch, at = divmod(t.step, t.steps)
        if at == 0 and t.sums:  # an epoch's end, also one that a run before broke off in: kept before it may fail
            _merge_statistics(t, workers)
            keep()
            _end_of_epoch(t, epoch - 1, workers, folder, about, validate_every)
            keep()
        if t.step == t.total:
            return
        images, labels = workers.together(partial(next, source), keep)
        t.schedule.step(epoch)
        parts, count = _step(t, network, images, labels, workers)
        for name, value in parts.items():
            t.sums[name] = t.sums.get(name, 0.0) + value
        t.step += 1
        if workers.rank == 0 and ((at + 1) % print_every == 0 or at + 1 == t.steps):
            log.info("%s", clock.line(epoch, at + 1, parts, count * workers.size))
        if t.step % every == 0 and at + 1 < t.steps:
            keep()


def _step(
    t: Training, network: nn.Module, images: Tensor, labels: Tensor, workers: Workers
) -> tuple[dict[str, float], int]:
    """One step; returns the losses, and how many images this process had."""
    network.train()
    seed_all(t.seed, 1, t.step, workers.rank)
    images, labels = images.to(t.device, non_blocking=True), labels.to(t.device, non_blocking=True)
    target = labels
    if t.mixup is not None:
        images, target = t.mixup(images, labels)
    with autocast(t.device, t.autocast):
        parts = t.loss.parts(network(images), target)
        loss = t.loss.total(parts)
    values = {"loss": loss.item()} | ({name: part.item() for name, part in parts.items()} if len(parts) > 1 else {})
    descend(loss, values, t.model, t.optimiser, t.clip, f"step {t.step}")
    if t.ema is not None:
        t.ema.update(t.model, step=t.step)
    return values, len(labels)


def _merge_statistics(t: Training, workers: Workers) -> None:
    """Batch norms' running statistics of all processes, each of which has gathered those of its own images."""
    if workers.size > 1:
        distribute_bn(t.model, workers.size, reduce=True)
        if t.ema is not None:
            distribute_bn(t.ema.module, workers.size, reduce=False)


def _end_of_epoch(
    t: Training, epoch: int, workers: Workers, folder: Path, about: dict[str, str], validate_every: int
) -> None:
    """Validate, log, and keep what is best."""
    row: dict[str, float] = {"epoch": epoch + 1, "lr": t.optimiser.param_groups[0]["lr"]}
    every = workers.gather(t.sums)
    row |= {name: sum(sums[name] for sums in every) / workers.size / t.steps for name in t.sums}
    t.sums = {}
    if (epoch + 1) % validate_every == 0 or epoch + 1 == t.epochs:
        row["top1"] = t.validate(t.model)
        if t.ema is not None:
            row["top1_ema"] = t.validate(t.ema.module)
    if workers.rank != 0:
        return
    log.info(
        "epoch %d of %d: %s", epoch + 1, t.epochs, ", ".join(f"{k} {v:.6g}" for k, v in row.items() if k != "epoch")
    )
    _append(folder / "log.csv", row)
    reached = max(row.get("top1", -1.0), row.get("top1_ema", -1.0))
    if reached > t.best:
        t.best = reached
        worse = "state_dict" if row.get("top1_ema", -1.0) == reached else "state_dict_ema"
        content = {key: value for key, value in t.content(about, []).items() if key not in ("optimiser", worse)}
        state.save(folder / "best.pth", content)


LOG = ("epoch", "lr", "loss", "main", "aux", "top1", "top1_ema")


def _lines(path: Path) -> list[str]:
    """The lines of `log.csv` below its heading, none where there is no file.

    Raises:
        BadInput: if the file is something else.
    """
    if not path.exists():
        return []
    rows = parse_csv(read_text(path, MEND), path, LOG, MEND)
    if not all(row["epoch"].isdecimal() for _, row in rows):
        raise BadInput(f"{path} is no log of a training: {MEND}")
    return [",".join(row[name] for name in LOG) for _, row in rows]


def _append(path: Path, row: dict[str, Any]) -> None:
    """Add the line of an epoch; lines of epochs that are done again after a stop are replaced."""
    kept = [line for line in _lines(path) if int(line.partition(",")[0]) < row["epoch"]]
    made = ",".join(f"{row[name]:.10g}" if name in row else "" for name in LOG)
    write_whole(path, "\n".join([",".join(LOG), *kept, made]) + "\n")


class _Clock:
    """How fast it goes, and when it ends."""

    def __init__(self, training: Training) -> None:
        self.t, self.begun, self.first = training, time.monotonic(), training.step
        self.last = self.begun, training.step

    def line(self, epoch: int, at: int, parts: dict[str, float], images: int) -> str:
        """What is logged of a step: where it is, losses, learning rate, speed, and the time that is left."""
        t, now = self.t, time.monotonic()
        since, done = self.last
        rate = images * (t.step - done) / (now - since)
        self.last = now, t.step
        left = (t.total - t.step) * (now - self.begun) / (t.step - self.first)
        losses = ", ".join(f"{name} {value:.4f}" for name, value in parts.items())
        return (
            f"epoch {epoch + 1} of {t.epochs}, step {at} of {t.steps}: {losses}, "
            f"lr {t.optimiser.param_groups[0]['lr']:.3g}, {rate:.1f} images/s, {duration(left)} left"
        )


def duration(seconds: float) -> str:
    """`2 d 3 h`, `5 h 7 min`, `42 s`: the two largest units, of days, hours and minutes."""
    minutes = int(seconds) // 60
    if minutes == 0:
        return f"{seconds:.0f} s"
    days, hours, minutes = minutes // 1440, minutes // 60 % 24, minutes % 60
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
