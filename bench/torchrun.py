"""The processes that torchrun started: who this one is, its share of the work, and what the others have."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from bench.cli import BadInput

T = TypeVar("T")

KEPT = "what is trained is kept, and the same command goes on from it"
MEND_IMAGE = f"mend the file (the set is another one without it); {KEPT}"
"""What is said of an image that a training cannot read; its loop keeps the state by `Workers.together`."""

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

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.size > 1 and kind is None:
            dist.destroy_process_group()

    def gather(self, value: T) -> list[T]:
        """Every process's value, in every process."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def together(self, attempt: Callable[[], T], keep: Callable[[], None] = lambda: None) -> T:
        """What `attempt` gives here. Where it fails in any process, all call `keep` and then raise.

        torchrun ends every process when one has failed: none would be left to write what was done so far.
        """
        failed: Exception | None = None
        try:
            made = attempt()
        except Exception as error:
            failed = error
        if self._any(failed is not None):
            keep()
            reasons = self.gather(None if failed is None else str(failed))
            raise failed or BadInput(next(reason for reason in reasons if reason is not None))
        return made

    def _any(self, here: bool) -> bool:
        """Whether it is so in some process: a number is exchanged, and no object, since it is asked at each step."""
        if self.size == 1:
            return here
        number = torch.tensor(int(here), device="cuda" if self.backend == "nccl" else "cpu")
        dist.all_reduce(number)
        return bool(number.item())

    def share(self, items: list[T]) -> list[T]:
        """This process's part of a list that all agree on; nothing twice, nothing left over."""
        return items[self.rank :: self.size]
