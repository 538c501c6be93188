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
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from bench.engine.statistics import summarise
from bench.engine.subject import Subject
from bench.machine.clock import synchronise

CALLS = 2
"""Calls that are measured; one, where the call before them took longer than `LONG` seconds."""

LONG = 0.5

CPU_METHOD = "peak resident set of a steady call above that of the loaded, warmed-up model"
CUDA_METHOD = "peak allocated of a steady call above the loaded model"


@torch.inference_mode()
def measure(subject: Subject, allocator: Mapping[str, str]) -> tuple[list[dict[str, Any]], list[Any]]:
    """Figures, in bytes, of the loaded model and of calls of it, after one that loads kernels and fills caches and
    pools; and what the calls gave.

    `allocator` has the C library's settings that hold, to be named in the method.
    """
    device, on_cuda = subject.device, subject.device.type == "cuda"
    begin = time.perf_counter()
    outputs = [subject.call(0)]
    synchronise(device)
    calls = CALLS if on_cuda or time.perf_counter() - begin < LONG else 1
    if on_cuda:
        torch.cuda.empty_cache()  # what cuDNN's search for its algorithms took, and no steady call needs
    peaks = [peak_of(lambda: outputs.append(subject.call(len(outputs))), device) for _ in range(calls)]
    peak = summarise([size for size, _ in peaks])
    how = ", ".join([peaks[-1][1], *(f"{name}={value}" for name, value in allocator.items())])
    method = CUDA_METHOD if on_cuda else f"{CPU_METHOD} ({how})"
    tensors = [*subject.model.parameters(), *subject.model.buffers()]
    weights = sum(t.numel() * t.element_size() for t in tensors)
    figures = [
        {"metric": "memory", "value": peak.median, "lo": peak.lo, "hi": peak.hi, "n": peak.n, "method": method},
        {"metric": "memory_weights", "value": weights, "method": "parameters and buffers as loaded"},
    ]
    if on_cuda:
        free, total = torch.cuda.mem_get_info(device)
        used = "in use on the device after the calls, context and other processes included"
        figures += [
            {"metric": "memory_reserved", "value": torch.cuda.max_memory_reserved(device), "n": 1,
             "method": "peak reserved by the caching allocator"},
            {"metric": "memory_device", "value": total - free, "n": 1, "method": used},
        ]  # fmt: skip
    return figures, outputs


def peak_of(call: Callable[[], object], device: torch.device) -> tuple[int, str]:
    """Bytes that a call takes at most, above what is held before, and on a CPU how they were read."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        synchronise(device)
        return torch.cuda.max_memory_allocated(device) - before, ""
    gc.collect()
    trimmed = trim()
    with peak_resident() as resident:
        call()
        synchronise(device)
    return resident.peak, resident.method + (", trimmed" if trimmed else "")


def trim() -> bool:
    """Have glibc give freed memory back, so that the baseline holds none; False where there is no such call."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
        return True
    return False


@dataclass
class Resident:
    """How far the resident set of this process rose, in bytes, and how that was read."""

    method: str = "high-water mark"
    peak: int = 0


@contextlib.contextmanager
def peak_resident() -> Iterator[Resident]:
    """How far the resident set rises within the block above where it began; known after the block.

    Linux keeps a high-water mark that can be reset; elsewhere the resident set is sampled, and a short peak may be
    missed.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
    except OSError:
        resident = Resident("sampled every millisecond")
        with _sampled() as sizes:
            yield resident
        resident.peak = max(sizes) - sizes[0]
        return
    resident = Resident()
    yield resident
    resident.peak = max(0, _status("VmHWM") - before)


@contextlib.contextmanager
def _sampled() -> Iterator[list[int]]:
    """The resident set, read again and again as long as the block runs."""
    process, ended = psutil.Process(), threading.Event()
    sizes = [process.memory_info().rss]

    def sample() -> None:
        while not ended.wait(0.001):
            sizes.append(process.memory_info().rss)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield sizes
    finally:
        ended.set()
        thread.join()


def _status(field: str) -> int:
    """A size in /proc/self/status, in bytes."""
    match = re.search(rf"^{field}:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    if match is None:
        raise OSError(f"/proc/self/status has no {field}")
    return int(match[1]) * 1024
