"""How the GPU run times an operator: replays of a CUDA graph of it, and calls one by one beside that.

An operator of 50 us is over before the host has launched the next: calls one by one show the host's time. A graph has
the device go through many calls without it. Experimental: it has not run on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from bench.gpu import simulation
from bench.machine.clock import time_calls

Call = Callable[[int], Any]
STICKY = ("illegal memory access", "illegal instruction", "misaligned address", "device-side assert",
          "unspecified launch failure", "no CUDA-capable device", "hardware stack error")  # fmt: skip
"""What CUDA says where every later call of the process fails too."""


@dataclass(frozen=True)
class Timed:
    """Seconds of a call: medians over blocks and the samples, of replays and of calls that the host makes one by one;
    and why there are no replays, in which case both are the latter."""

    seconds: float
    samples: tuple[float, ...]
    eager: float
    no_graph: str = ""


class Timer:
    """Times calls that are numbered, so that they can take several sets of inputs in turn."""

    def __init__(self, device: str, tiny: bool, sets: int) -> None:
        self.device = torch.device(device)
        self.sets = sets
        self.block = 0.002 if tiny else 0.02  # seconds
        self.blocks = 3 if tiny else 7

    def __call__(self, call: Call, floor: float = 0.0) -> Timed:
        """The time of a call, after calls that compile and choose kernels. `floor`: the least seconds it can take.

        Raises:
            Exception: whatever the call raises.
        """
        if simulation.running():
            return _simulated(floor)
        time_calls(call, 2, self.device)
        eager = samples = self._blocks(call)
        no_graph = "no CUDA device"
        if self.device.type == "cuda":
            try:
                replay, no_graph = captured(call, self.sets, self.device), ""
            except RuntimeError as error:  # what a call does may not be allowed in a capture; then it is said
                if is_sticky(error):
                    raise
                no_graph = " ".join(str(error).split())[:120]
            else:
                samples = tuple(seconds / self.sets for seconds in self._blocks(lambda i: replay()))
        return Timed(median(samples), samples, median(eager), no_graph)

    def _blocks(self, call: Call) -> tuple[float, ...]:
        """Seconds of a call, in each block."""
        once = time_calls(call, 1, self.device)[0]
        number = max(1, round(self.block / max(once, 1e-7)))
        return tuple(time_calls(call, number, self.device, i * number)[0] / number for i in range(self.blocks))


def captured(call: Call, calls: int, device: torch.device) -> Callable[[], None]:
    """A function that replays `calls` calls as one CUDA graph: call 0, 1, ... in turn."""
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for i in range(calls):  # kernels are chosen and workspaces taken before the capture
                call(i)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        kept = []  # results live as long as the graph writes to them
        with torch.cuda.graph(graph):
            for i in range(calls):
                kept.append(call(i))

    def replay() -> None:
        assert kept is not None
        graph.replay()

    return replay


def is_sticky(error: BaseException) -> bool:
    """Whether every later call of this process on the device fails too."""
    return any(sign in str(error) for sign in STICKY)


def _simulated(floor: float) -> Timed:
    import os
    import random

    from bench.gpu.simulation import device

    try:
        device.operate("timing an operator", 0.6)
    except device.OutOfMemory as error:
        raise torch.OutOfMemoryError(str(error)) from error
    except device.Planted as error:
        raise RuntimeError(str(error)) from error
    seconds = (floor or 1e-3) * random.uniform(1.2, 5.0)
    device.measured(operator=seconds, process=os.getpid())
    return Timed(seconds, (seconds,) * 3, 2 * seconds)
