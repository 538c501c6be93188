"""The processes that torchrun started: who this one is, its share of the work, and what the others have."""

from __future__ import annotations

import os
from datetime import timedelta
from types import TracebackType
from typing import Any

import torch.distributed as dist


class Workers:
    """This process among those that torchrun started; alone without torchrun.

    Args:
        backend: what they talk by: `gloo`, or `nccl` where gradients are summed on GPUs.
    """

    def __init__(self, backend: str = "gloo") -> None:
        self.backend = backend
        self.rank, self.size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))

    def __enter__(self) -> Workers:
        if self.size > 1:
            dist.init_process_group(self.backend, timeout=timedelta(days=2))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self.size > 1 and kind is None:
            dist.destroy_process_group()

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, in every process."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def share(self, items: list[Any]) -> list[Any]:
        """This process's part of a list that all agree on; nothing twice, nothing left over."""
        return items[self.rank :: self.size]
