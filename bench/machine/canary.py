"""The canary: fixed work whose time should not move. If it does, the machine changed while a model was measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from bench.machine.clock import synchronise

SECONDS = 0.05
"""How long each of the two works is repeated."""

PERCENTILE = 10
"""The percentile of the repetitions that counts: a low one, so that an interruption of a few of them does not count."""


@dataclass(frozen=True)
class Reading:
    """Seconds of one repetition of each work."""

    product: float
    copy: float

    def moved(self, later: Reading) -> tuple[float, str]:
        """The larger relative movement of the two, and the name of that work."""
        product, copy = abs(later.product / self.product - 1), abs(later.copy / self.copy - 1)
        return max((product, "matrix product"), (copy, "copy"))


class Canary:
    """A matrix product that fits a core's caches, and a copy that does not, on preallocated memory of one device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        side, length = (4096, 2**26) if device.type == "cuda" else (512, 2**23)
        generator = torch.Generator().manual_seed(0)
        self._a, self._b = (torch.randn(side, side, generator=generator).to(device) for _ in range(2))
        self._out = torch.empty_like(self._a)
        self._from = torch.ones(length, device=device)
        self._to = torch.empty_like(self._from).zero_()

    @property
    def size(self) -> dict[str, int]:
        """MACs of the product, and bytes that the copy reads and writes."""
        return {"product": len(self._a) ** 3, "copy": 2 * self._to.numel() * self._to.element_size()}

    @torch.inference_mode()
    def read(self) -> Reading:
        """Time both works; the repetitions of the first fifth of the time do not count."""
        return Reading(self._time(self._product), self._time(self._copy))

    def _product(self) -> None:
        torch.mm(self._a, self._b, out=self._out)

    def _copy(self) -> None:
        self._to.copy_(self._from)

    def _time(self, work: Callable[[], None]) -> float:
        times: list[float] = []
        begin = time.perf_counter()
        while (now := time.perf_counter()) - begin < 1.25 * SECONDS or len(times) < 3:
            synchronise(self.device)
            start = time.perf_counter()
            work()
            synchronise(self.device)
            if now - begin > 0.25 * SECONDS:
                times.append(time.perf_counter() - start)
        return float(np.percentile(times, PERCENTILE))
