"""Memory of a steady inference call above the loaded model, in a pass (and a process) of its own.

On a CPU the peak depends on what the allocator keeps of freed blocks: glibc decides that anew in each process, and the
same model's peak spreads by a third and more. The process of this pass has glibc map every larger block by itself, so
that a freed one is gone at once (`bench.machine.allocator.MAPPING`): then the peak is that of the tensors that live
together, and repeats to about a percent.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
import torch

from bench.engine.statistics import Summary, summarise
from bench.engine.subject import Subject
from bench.machine.clock import synchronise

CALLS = 2
"""Calls that are measured; one, where the call before them took longer than `LONG` seconds."""

LONG = 0.5

CPU_METHOD = "peak resident set of a steady call above that of the loaded, warmed-up model"
CUDA_METHOD = "peak allocated of a steady call above the loaded model"


@dataclass(frozen=True)
class Memory:
    """Bytes. `further` are figures that only some devices have: metric, bytes, method. `outputs` are the calls'."""

    weights: int
    peak: Summary  # of a call, above what is loaded
    method: str
    outputs: Sequence[Any]
    further: tuple[tuple[str, int, str], ...] = ()


def measure(subject: Subject, allocator: Mapping[str, str]) -> Memory:
    """Peak memory of calls, after one that loads kernels and fills caches and pools.

    `allocator` has the C library's settings that hold, to be named in the method.
    """
    tensors = [*subject.model.parameters(), *subject.model.buffers()]
    weights = sum(t.numel() * t.element_size() for t in tensors)
    with torch.inference_mode():
        begin = time.perf_counter()
        outputs = [subject.call(0)]
        synchronise(subject.device)
        if subject.device.type == "cuda":
            return _cuda(subject, weights, outputs)
        calls = CALLS if time.perf_counter() - begin < LONG else 1
        peaks = []
        for i in range(1, calls + 1):
            gc.collect()
            trimmed = trim()
            with PeakResident() as resident:
                outputs.append(subject.call(i))
                synchronise(subject.device)
            peaks.append(resident.peak)
    settings = [f"{name}={value}" for name, value in allocator.items()]
    how = [resident.method, *(["trimmed"] if trimmed else []), *settings]
    return Memory(weights, summarise(peaks), f"{CPU_METHOD} ({', '.join(how)})", outputs)


def _cuda(subject: Subject, weights: int, outputs: list[Any]) -> Memory:
    synchronise(subject.device)
    torch.cuda.empty_cache()  # what cuDNN's search for its algorithms took, and no steady call needs
    torch.cuda.reset_peak_memory_stats(subject.device)
    reserved = 0
    peaks = []
    for i in range(1, CALLS + 1):
        loaded = torch.cuda.memory_allocated(subject.device)
        torch.cuda.reset_peak_memory_stats(subject.device)
        outputs.append(subject.call(i))
        synchronise(subject.device)
        peaks.append(torch.cuda.max_memory_allocated(subject.device) - loaded)
        reserved = max(reserved, torch.cuda.max_memory_reserved(subject.device))
    free, total = torch.cuda.mem_get_info(subject.device)
    further = (
        ("memory_reserved", reserved, "peak reserved by the caching allocator"),
        ("memory_device", total - free, "in use on the device after the calls, context and other processes included"),
    )
    return Memory(weights, summarise(peaks), CUDA_METHOD, outputs, further)


def trim() -> bool:
    """Have glibc give freed memory back, so that the baseline holds none; False where there is no such call."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
        return True
    return False


class PeakResident:
    """Within it, how far the resident set of this process rises above where it began, in bytes (`peak`).

    Linux keeps a high-water mark that can be reset; elsewhere the resident set is sampled, and a short peak may be
    missed. `method` says which.
    """

    def __init__(self) -> None:
        self.peak = 0
        self.method = ""

    def __enter__(self) -> PeakResident:
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        try:
            Path("/proc/self/clear_refs").write_text("5")
            self.method = "high-water mark"
            self._before = _status("VmRSS")
        except OSError:
            self.method = "sampled every millisecond"
            self._before = self._top = psutil.Process().memory_info().rss
            self._thread = threading.Thread(target=self._sample, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._thread is None:
            top = _status("VmHWM")
        else:
            self._stop.set()
            self._thread.join()
            top = self._top
        self.peak = max(0, top - self._before)

    def _sample(self) -> None:
        process = psutil.Process()
        while not self._stop.wait(0.001):
            self._top = max(self._top, process.memory_info().rss)


def _status(field: str) -> int:
    """A size in /proc/self/status, in bytes."""
    for line in _lines("/proc/self/status"):
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def _lines(path: str) -> Iterator[str]:
    with open(path, encoding="ascii") as file:
        yield from file
