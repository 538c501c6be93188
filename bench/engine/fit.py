"""The largest batch that fits a budget of memory: by doubling, then by halving the gap, each batch really run once."""

from __future__ import annotations

import gc
from collections.abc import Callable

import psutil
import torch

from bench.engine.memory import peak_of
from bench.engine.speed import is_out_of_memory
from bench.engine.subject import LAYOUTS, Subject

MOST = 1 << 16
RESERVE = 0.8
"""Share of the free memory that is the budget on a CPU, where none is given: beyond, the system starts killing."""


def largest_batch(subject: Subject, resolution: tuple[int, int], budget: int | None) -> tuple[int, str]:
    """Images in the largest batch whose call stays within `budget` bytes above the loaded model, and how it was found.

    Without a budget it is what is free: on CUDA what the allocator gives, on a CPU 80 % of the available memory.

    Raises:
        RuntimeError: if not even one image fits.
    """
    on_cuda = subject.device.type == "cuda"
    if budget is None and not on_cuda:
        budget = int(RESERVE * psutil.virtual_memory().available)
    image = torch.randn(1, 3, *resolution, dtype=subject.images[0].dtype)

    @torch.inference_mode()
    def peak(batch: int) -> int | None:
        """Bytes of a call above the loaded model; None if memory did not suffice."""
        try:
            images = image.expand(batch, -1, -1, -1).to(subject.device)
            images = images.contiguous(memory_format=LAYOUTS[subject.layout])
            return peak_of(lambda: subject.model(images), subject.device)[0]
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return None
        finally:
            gc.collect()
            if on_cuda:
                torch.cuda.empty_cache()

    batch = search(peak, budget, guarded=not on_cuda)
    room = "what the device has free" if budget is None else f"{budget / 2**20:.0f} MiB"
    if batch == 0:
        raise RuntimeError(f"out of memory: not even one image fits {room}")
    return batch, f"largest batch whose call stays within {room} above the loaded model, by search"


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
