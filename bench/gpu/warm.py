"""A part of the GPU run: every model of the headline compiled and called once, so that its code is in the caches.

Triton's kernels come first, shared out among processes: one after another they would take longer than this part. Then
each side is called by a process of its own, in the environment in which it is timed; those that train come last and one
at a time, since two of them may not fit in the device's memory. Experimental: it has not run on a GPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from bench.engine.request import Request
from bench.gpu import simulation
from bench.gpu.configurations import FUSED, HEADLINE, TRAINING_SIDES, requests
from bench.gpu.parts import WARMED, arguments
from bench.gpu.sink import Sink, sink
from bench.metrics import THROUGHPUT, TRAINING

AT_ONCE = 4
"""Processes: each compiles with `COMPILE_THREADS`, beside the workers of the tests."""

SHARE = "GPU_RUN_SHARE"
"""A variable for `bench.gpu.warming`: 2/4 is the second of four shares of a side's kernels."""

COMPILE_THREADS = {"TORCHINDUCTOR_COMPILE_THREADS": "3"}


def warm(part: Sink, waiting: list[Request], at_once: int) -> None:
    """Have these sides compiled and called, some at a time, until its time is over; a file names those that were."""
    warmed: list[str] = []
    running: list[tuple[Request, subprocess.Popen[bytes], float]] = []
    waiting = list(waiting)
    while waiting or running:
        while waiting and len(running) < at_once:
            side = waiting.pop(0)
            running.append((side, _started(side), time.time()))
        time.sleep(0.05)
        for one in [one for one in running if one[1].poll() is not None]:
            running.remove(one)
            side, process, began = one
            seconds = simulation.run_seconds(time.time() - began)
            how = f"in {seconds:.0f} s" if process.returncode == 0 else f"failed with code {process.returncode}"
            if process.returncode == 0:
                warmed.append(side.name)
                part.tell(file=WARMED, text=json.dumps(warmed))
            part.tell(note=f"{side.name}: compiled and called {how}")
        if part.left <= 0:
            for side, process, _ in running:
                process.kill()
                process.wait()
                part.drop(f"{side.name} (not compiled in time)")
            for side in waiting:
                part.drop(f"{side.name} (not begun)")
            return


def shares(side: Request) -> list[Request]:
    """The side's kernels, shared out among as many processes as run at once."""
    return [
        replace(side, label=f"kernels {i}/{AT_ONCE} of {side.name}", env={**side.env, SHARE: f"{i}/{AT_ONCE}"})
        for i in range(1, AT_ONCE + 1)
    ]


def _started(side: Request) -> subprocess.Popen[bytes]:
    module = "bench.gpu.simulation.warming" if simulation.running() else "bench.gpu.warming"
    return subprocess.Popen(
        [sys.executable, "-m", module, json.dumps(side.to_dict())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env={**os.environ, **COMPILE_THREADS, **side.env},
    )


def main(argv: Sequence[str] | None = None) -> int:
    part = sink(arguments("bench.gpu.warm").parse_args(argv))
    if part.tiny:
        return 0
    sides = requests(HEADLINE, part, THROUGHPUT)
    warm(part, [*shares(sides[FUSED]), *sides], AT_ONCE)
    warm(part, requests(TRAINING_SIDES, part, TRAINING), 1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
