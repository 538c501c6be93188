"""Timing calls on a device: blocks of back-to-back calls, and calls one by one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def time_calls(call: Callable[[int], Any], calls: int, device: torch.device, start: int = 0) -> tuple[float, float]:
    """Seconds of `calls` back-to-back calls: on the device, and for the host to hand them over.

    On CUDA the device's time is between two events on the current stream; elsewhere it is the wall clock, synchronised
    before and after. Nothing synchronises in between.
    """
    synchronise(device)
    if device.type == "cuda":
        with torch.cuda.device(device):
            first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin = time.perf_counter()
            first.record()
            for i in range(start, start + calls):
                call(i)
            last.record()
            host = time.perf_counter() - begin
            last.synchronize()
            return first.elapsed_time(last) / 1e3, host
    begin = time.perf_counter()
    for i in range(start, start + calls):
        call(i)
    host = time.perf_counter() - begin
    synchronise(device)
    return time.perf_counter() - begin, host


def time_each(call: Callable[[int], Any], calls: int, device: torch.device, start: int = 0) -> list[float]:
    """Seconds of each of `calls` calls, every one waited for: what a caller at batch 1 waits."""
    synchronise(device)
    seconds = []
    for i in range(start, start + calls):
        begin = time.perf_counter()
        call(i)
        synchronise(device)
        seconds.append(time.perf_counter() - begin)
    return seconds
