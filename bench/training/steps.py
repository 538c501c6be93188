"""What every training does alike: its processes, what it may go on from, and the step down the gradient."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bench.cli import BadInput
from bench.files import alone
from bench.torchrun import Workers

FREE = ("weights", "device", "threads", "workers", "output", "every", "print_every")
"""Arguments that may be others when a stopped training goes on."""


@contextmanager
def processes(args: argparse.Namespace, device: str, file: Path, mend: str) -> Iterator[Workers]:
    """The processes of a training, of which the first alone writes `file`.

    Raises:
        BadInput: if another run writes it, or the processes cannot share a batch.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if args.threads:
        torch.set_num_threads(args.threads)
    with (
        Workers("nccl" if device.startswith("cuda") else "gloo") as workers,
        alone(file, mend) if workers.rank == 0 else nullcontext(),
    ):
        if args.batch_size % workers.size:
            raise BadInput(f"--batch-size {args.batch_size} cannot be shared by {workers.size} processes")
        yield workers


def about(args: argparse.Namespace, data: str, free: Collection[str] = FREE) -> dict[str, str]:
    """What the weights depend on: the arguments but the `free` ones, and the identity of the set of images."""
    given = {f"--{name.replace('_', '-')}": str(value) for name, value in vars(args).items() if name not in free}
    return given | {"--data": data}


def distributed(model: nn.Module, device: str, workers: Workers) -> nn.Module:
    """The network that computes gradients, of all processes' images where there are several."""
    if workers.size == 1:
        return model
    if device.startswith("cuda"):
        return DistributedDataParallel(nn.SyncBatchNorm.convert_sync_batchnorm(model), [device])
    return DistributedDataParallel(model)


def descend(
    loss: Tensor,
    parts: Mapping[str, Any],
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    clip: float | None,
    where: str,
) -> None:
    """One step of the optimiser; the norm of the gradient is at most `clip`.

    Raises:
        BadInput: where the loss is not finite: `where` and its `parts` are named.
    """
    if not loss.isfinite():
        raise BadInput(f"the loss is not finite at {where}: {dict(parts)}: give a lower --lr, or --dtype float32")
    optimiser.zero_grad()
    loss.backward()
    if clip is not None:
        nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimiser.step()
