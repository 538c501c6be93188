"""What is timed in a process: inference or training steps, first call, warm-up, blocks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.engine.statistics import summarise
from bench.engine.subject import Subject
from bench.machine import nvml
from bench.machine.clock import synchronise, time_calls, time_each
from overlock.loss import AuxiliaryLoss

WINDOW_AGREEMENT = 0.01
"""Warm-up ends when two successive windows of calls take the same time to this fraction."""

LAUNCH_BOUND = 0.9
"""A model is bound by launching if handing over one call takes the host this share of a call's time in a block."""

MORE_WARMUP = 4
"""So many times as long may steps of training take to become steady: on a CPU the allocator needs five or more."""

TRIAL = 0.15
"""Layouts are tried on as many images as a call of them takes about this many seconds."""

CLEARLY = 0.05
"""A layout must be faster by this fraction to be taken instead of channels_last."""

LONG, VERY_LONG = 0.3, 0.6
"""Of calls that take longer than so many seconds fewer are tried."""

SHORT = 0.1
"""Calls shorter than this many seconds go once untimed before a block: another process has used the caches since."""


class Work:
    """Something to time over and over."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject

    def call(self, i: int) -> Any:
        raise NotImplementedError

    def seconds(self, i: int) -> float:
        """Seconds of one call."""
        return time_calls(self.call, 1, self.subject.device, i)[0]

    def first_call(self) -> float:
        """Seconds of the first call: kernels are chosen, memory is taken, compiled code is compiled."""
        begin = time.perf_counter()
        self.call(0)
        synchronise(self.subject.device)
        return time.perf_counter() - begin

    def problems(self) -> tuple[str, ...]:
        return ()

    def launch_bound(self, seconds: float) -> bool:
        """Whether the host, handing calls to an idle device, is hardly quicker than the device that runs them."""
        if self.subject.device.type != "cuda":
            return False
        hosts = [time_calls(self.call, 1, self.subject.device, i)[1] for i in range(5)]
        return summarise(hosts).median >= LAUNCH_BOUND * seconds


class Inference(Work):
    """Forward passes in inference mode, with inputs that take turns."""

    def call(self, i: int) -> Any:
        with torch.inference_mode():
            return self.subject.call(i)


class Training(Work):
    """Steps of training: forward, cross entropy (with the auxiliary head's, weighted 0.4), backward, AdamW."""

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        parameters = [p for p in subject.model.parameters() if p.requires_grad]
        fused = subject.device.type in ("cpu", "cuda")  # one kernel instead of twenty a tensor, as one trains today
        self.optimiser = torch.optim.AdamW(parameters, lr=1e-6, weight_decay=0.05, fused=fused)
        generator = torch.Generator().manual_seed(0)
        self.labels = [torch.randint(0, 1000, (len(x),), generator=generator).to(x.device) for x in subject.images]
        self.criterion = AuxiliaryLoss(lambda logits, y: F.cross_entropy(logits.float(), y % logits.shape[1]))
        self.loss: Tensor | None = None

    def call(self, i: int) -> Tensor:
        out = self.subject.call(i)
        labels = self.labels[i % len(self.labels)]
        loss: Tensor = self.criterion(out, labels)
        loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.loss = loss.detach()
        return self.loss

    def problems(self) -> tuple[str, ...]:
        finite = self.loss is not None and bool(self.loss.isfinite().all())
        return () if finite else ("the loss of a training step is not finite",)


@dataclass(frozen=True)
class Warmth:
    """Seconds of one call when warmed up, and whether two windows agreed before time was over.

    Of calls that take all the time, one is made, and called steady: there is no telling.
    """

    seconds: float
    steady: bool
    calls: int


def warm_up(call: Callable[[int], float], limit: float, before: float = math.inf) -> Warmth:
    """Call what returns its seconds until two successive windows agree within 1 %, or `limit` seconds are over.

    `before` are the seconds of a call that was made already: a call as long as that has warmed up what there is.
    """
    if limit <= before < math.inf:
        return Warmth(before, True, 0)
    end = time.perf_counter() + limit
    before, calls = math.inf, 0
    while True:
        window: list[float] = []
        while not window or (sum(window) < min(0.1, limit / 10) and time.perf_counter() < end):
            window.append(call(calls))
            calls += 1
        mean = sum(window) / len(window)
        steady = abs(mean - before) <= WINDOW_AGREEMENT * mean
        if steady or time.perf_counter() >= end:
            return Warmth(mean, steady or calls == 1, calls)
        before = mean


@dataclass(frozen=True)
class Block:
    """Seconds of one call in a block of `calls`; for latency `each` call's."""

    seconds: float
    calls: int
    host: float
    each: tuple[float, ...] = ()
    joules: float | None = None  # of the whole block


def block(work: Work, seconds: float, length: float, each: bool, start: int) -> Block:
    """A block of about `length` seconds of calls of `seconds`, one at least; before short ones, one untimed."""
    device = work.subject.device
    calls = max(1, round(length / seconds))
    if seconds < SHORT:
        work.seconds(start)
    if each:
        times = time_each(work.call, calls, device, start)
        return Block(summarise(times).median, calls, 0.0, tuple(times))
    before = _joules(device)
    took, host = time_calls(work.call, calls, device, start)
    after = _joules(device)
    joules = after - before if before is not None and after is not None else None
    return Block(took / calls, calls, host / calls, joules=joules)


def _joules(device: torch.device) -> float | None:
    """What the device has used so far; None if it does not count it."""
    return nvml.joules(nvml.uuid(device)) if device.type == "cuda" else None


def faster_layout(subject: Subject, kind: type[Work] = Inference) -> str:
    """The memory layout that is taken for the faster one; `subject` is left in it.

    It is channels_last unless channels_first is 5 % faster, twice: what noise decides would be decided otherwise in the
    next run. Each time, the better of two calls counts, after one that does not; of calls of over 0.3 s each the
    second alone, of over 0.6 s the first. On a CPU calls are of as many images as take `TRIAL` seconds.
    """
    whole = subject.images

    def seconds_in(layout: str, images: int, calls: int) -> float:
        subject.images = [x[:images] for x in whole]
        subject.lay_out(layout)  # not in inference mode: what is made there cannot be trained
        work = kind(subject)
        return min(map(work.seconds, range(calls)))

    def channels_first_is_faster() -> bool:
        last, first = (seconds_in(layout, images, calls) for layout in ("channels_last", "channels_first"))
        return first * (1 + CLEARLY) < last

    images, calls = len(whole[0]), 3
    if subject.device.type == "cpu":
        few = min(images, 2 if kind is Training else 1)  # a batch norm may need two
        took = seconds_in("channels_last", few, calls=2)
        images = max(few, min(images, round(TRIAL / took * few)))
        calls = 3 if took < LONG else 2 if took < VERY_LONG else 1
    best = "channels_first" if channels_first_is_faster() and channels_first_is_faster() else "channels_last"
    subject.images = whole
    subject.lay_out(best)
    return best


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device's or the host's memory did not suffice."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    signs = ("out of memory", "can't allocate memory", "ALLOC_FAILED", "bad_alloc")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
