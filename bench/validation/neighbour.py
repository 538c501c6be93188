"""A neighbour on the machine, to try a measurement beside: `python -m bench.validation.neighbour cpu`, or `memory`.

`cpu` takes one core on and off, for 0.2 to 3 seconds each, by chance; `memory` copies 256 MiB back and forth all the
time. It ends when its stdin is closed. Imports no torch.
"""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from bench.paths import REPOSITORY

KINDS = ("cpu", "memory")
SIZE = 2**28


@contextmanager
def neighbour(kind: str) -> Iterator[None]:
    """A neighbour of a kind as long as the block runs; none if it is empty."""
    if not kind:
        yield
        return
    command = [sys.executable, "-m", "bench.validation.neighbour", kind]
    with subprocess.Popen(command, stdin=subprocess.PIPE, cwd=REPOSITORY) as process:
        try:
            yield
        finally:
            process.kill()


def disturb(kind: str, ended: threading.Event) -> None:
    """Disturb the machine until `ended` is set."""
    chance = random.Random()
    here, there = (np.ones(SIZE if kind == "memory" else 1, dtype=np.uint8) for _ in range(2))
    while not ended.is_set():
        if kind == "memory":
            np.copyto(there, here)
            continue
        end = time.monotonic() + chance.uniform(0.2, 3.0)
        while time.monotonic() < end:
            sum(range(10_000))
        ended.wait(chance.uniform(0.2, 3.0))


def main() -> None:
    ended = threading.Event()

    def listen() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=listen, daemon=True).start()
    disturb(sys.argv[1], ended)


if __name__ == "__main__":
    main()
