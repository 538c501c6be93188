"""The processes that torchrun started: who this one is, its share of the work, and what the others have."""

from __future__ import annotations

import os
from datetime import timedelta
from types import TracebackType
from typing import Any

import torch.distributed as dist

from bench.cli import BadInput

MEND = "start it by torchrun, or unset what torchrun sets (RANK, WORLD_SIZE)"


class Workers:
    """This process among those that torchrun started; alone without torchrun.

    Args:
        backend: what they talk by: `gloo`, or `nccl` where gradients are summed on GPUs.
    """

    def __init__(self, backend: str = "gloo") -> None:
        self.backend = backend
        given = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
        if not all(number.isdecimal() for number in given) or int(given[0]) >= int(given[1]):
            raise BadInput(f"RANK={given[0]} WORLD_SIZE={given[1]}: {MEND}")
        self.rank, self.size = map(int, given)

    def __enter__(self) -> Workers:
        if self.size > 1:
            try:
                dist.init_process_group(self.backend, timeout=timedelta(days=2))
            except ValueError as error:  # a variable of torchrun's is missing
                raise BadInput(f"WORLD_SIZE={self.size}: {error}: {MEND}") from error
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
