"""Throughput: blocks of back-to-back calls on a warmed-up model, inference mode, device synchronised around a block."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from bench.measure.statistics import Summary, summarise
from bench.measure.subject import LAYOUTS, Subject

METHOD = "median of blocks of back-to-back calls; lo and hi are the 20th and 80th percentile"

WINDOW_AGREEMENT = 0.02
"""Warm-up ends when two successive windows of calls take the same time to this fraction."""

LAUNCH_BOUND = 0.9
"""A model is bound by launching if handing over one call takes the host this share of a call's time in a block."""


@dataclass(frozen=True)
class Budget:
    """How long to measure, in seconds."""

    warmup: float = 4.0
    measure: float = 6.0
    block: float = 0.2
    min_blocks: int = 5
    max_blocks: int = 20


DEFAULT = Budget()
QUICK = Budget(warmup=0.5, measure=0.5, min_blocks=3, max_blocks=5)


@dataclass(frozen=True)
class Throughput:
    """Images per second, and how it came about."""

    images_per_second: Summary
    steady: bool  # whether the warm-up saw two windows agree
    launch_bound: bool


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def time_block(subject: Subject, calls: int, start: int = 0) -> tuple[float, float]:
    """Seconds of `calls` back-to-back calls: on the device, and for the host to hand them over.

    On CUDA the device's time is between two events on its own stream; elsewhere it is the wall clock, synchronised
    before and after.
    """
    synchronise(subject.device)
    if subject.device.type == "cuda":
        with torch.cuda.device(subject.device):
            first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin = time.perf_counter()
            first.record()
            for i in range(start, start + calls):
                subject.call(i)
            last.record()
            host = time.perf_counter() - begin
            last.synchronize()
            return first.elapsed_time(last) / 1e3, host
    begin = time.perf_counter()
    for i in range(start, start + calls):
        subject.call(i)
    host = time.perf_counter() - begin
    synchronise(subject.device)
    return time.perf_counter() - begin, host


@torch.inference_mode()
def throughput(subject: Subject, batch: int, budget: Budget) -> Throughput:
    """Images per second of `subject` with inputs of `batch` images."""
    seconds, steady = _warm_up(lambda: time_block(subject, 1, 1)[0], budget.warmup)
    calls = max(1, math.ceil(budget.block / seconds))
    rates: list[float] = []
    end = time.perf_counter() + budget.measure
    while len(rates) < budget.min_blocks or (len(rates) < budget.max_blocks and time.perf_counter() < end):
        elapsed, _ = time_block(subject, calls, calls * len(rates))
        rates.append(calls * batch / elapsed)
    rate = summarise(rates)
    bound = subject.device.type == "cuda" and _hand_over(subject) >= LAUNCH_BOUND * batch / rate.median
    return Throughput(rate, steady, bound)


def _hand_over(subject: Subject) -> float:
    """Seconds that the host needs to hand one call to an idle device; in a block it may wait for room in the queue."""
    return summarise([time_block(subject, 1, i)[1] for i in range(5)]).median


def _warm_up(call: Callable[[], float], seconds: float) -> tuple[float, bool]:
    """Call until two successive windows agree or `seconds` are over: seconds of one call, and whether they agreed."""
    end = time.perf_counter() + seconds
    before = math.inf
    while True:
        took = call()
        window = [took]
        while sum(window) < min(0.1, seconds / 10) and time.perf_counter() < end:
            window.append(call())
        mean = sum(window) / len(window)
        if abs(mean - before) <= WINDOW_AGREEMENT * mean:
            return mean, True
        if time.perf_counter() >= end:
            return mean, False
        before = mean


@torch.inference_mode()
def faster_layout(subject: Subject) -> str:
    """The memory layout in which the second and third call are quickest; `subject` is left in it."""
    times: dict[str, float] = {}
    for layout in LAYOUTS:
        subject.lay_out(layout)
        time_block(subject, 1)
        times[layout] = min(time_block(subject, 1, i)[0] for i in (1, 2))
    best = min(times, key=lambda layout: times[layout])
    subject.lay_out(best)
    return best


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device's or the host's memory did not suffice."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    signs: tuple[Any, ...] = ("out of memory", "can't allocate memory", "ALLOC_FAILED", "bad_alloc")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
