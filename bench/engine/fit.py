"""The largest batch that fits a budget of memory: by doubling, then by halving the gap, each batch really run once."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass

import psutil
import torch

from bench.engine.memory import PeakResident, trim
from bench.engine.speed import is_out_of_memory
from bench.engine.subject import LAYOUTS, Subject
from bench.machine.clock import synchronise

MOST = 1 << 16
RESERVE = 0.8
"""Share of the free memory that is the budget on a CPU, where none is given: beyond, the system starts killing."""


@dataclass(frozen=True)
class Fit:
    """The largest batch, how it was found, and what was known of the next one tried."""

    batch: int
    method: str
    notes: tuple[str, ...] = ()


def largest_batch(subject: Subject, resolution: tuple[int, int], budget: int | None) -> Fit:
    """Images in the largest batch whose call stays within `budget` bytes above the loaded model.

    Without a budget it is what is free: on CUDA what the allocator gives, on a CPU 80 % of the available memory.

    Raises:
        RuntimeError: if not even one image fits.
    """
    on_cuda = subject.device.type == "cuda"
    if budget is None and not on_cuda:
        budget = int(RESERVE * psutil.virtual_memory().available)
    image = torch.randn(1, 3, *resolution, dtype=subject.images[0].dtype)
    last = 0

    def peak(batch: int) -> int | None:
        """Bytes of a call above the loaded model; None if memory did not suffice."""
        nonlocal last
        try:
            last = _peak(subject, image, batch)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return None
        finally:
            gc.collect()
            if on_cuda:
                torch.cuda.empty_cache()
        return last

    batch = search(peak, budget, guarded=not on_cuda)
    if batch == 0:
        raise RuntimeError(f"out of memory: not even one image fits {_mib(budget)}")
    return Fit(batch, f"largest batch whose call stays within {_mib(budget)} above the loaded model, by search")


def search(peak: Callable[[int], int | None], budget: int | None, guarded: bool) -> int:
    """The largest batch whose peak is within the budget; 0 if there is none. `peak` is None where memory gave out.

    `guarded` never tries a batch that would go over the budget by the growth seen so far: on a CPU the system would
    kill the process, or another's.
    """

    def fits(batch: int) -> bool:
        if guarded and budget is not None and len(seen) >= 2:
            (small, low), (large, high) = sorted(seen.items())[-2:]
            slope = (high - low) / (large - small)
            if high + slope * (batch - large) > 1.25 * budget:
                return False
        used = peak(batch)
        if used is not None:
            seen[batch] = used
        return used is not None and (budget is None or used <= budget)

    seen: dict[int, int] = {}
    good, bad = 0, 1
    while fits(bad):
        good, bad = bad, 2 * bad
        if bad > MOST:
            return good
    while bad - good > max(1, good // 64):  # to within 2 %
        middle = (good + bad) // 2
        if fits(middle):
            good = middle
        else:
            bad = middle
    return good


def _peak(subject: Subject, image: torch.Tensor, batch: int) -> int:
    images = image.expand(batch, -1, -1, -1).to(subject.device).contiguous(memory_format=LAYOUTS[subject.layout])
    with torch.inference_mode():
        if subject.device.type == "cuda":
            loaded = torch.cuda.memory_allocated(subject.device)
            torch.cuda.reset_peak_memory_stats(subject.device)
            subject.model(images)
            synchronise(subject.device)
            return int(torch.cuda.max_memory_allocated(subject.device) - loaded)
        trim()
        with PeakResident() as resident:
            subject.model(images)
        return resident.peak


def _mib(budget: int | None) -> str:
    return "what the device has free" if budget is None else f"{budget / 2**20:.0f} MiB"
