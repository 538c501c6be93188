"""The simulated device: every operation takes its time, and fails where a failure is planted. Imports no torch.

Every operation of a part has a number, from 1 on: `oom@headline:4` plants a failure of memory in the fourth operation
of the headline. What an operation measured goes into the ledger.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench.gpu import simulation

LEDGER = "ledger.jsonl"
SLOWER = 12.0
LAST = 0.4
"""Real seconds before a kill: a message that is under way when it comes is lost, which is some milliseconds."""

STICKY = "CUDA error: an illegal memory access was encountered"
OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 20.20 GiB"

FAILURES = {
    "slow": f"every operation from there on takes {SLOWER:g} times as long",
    "oom": "the device's memory does not suffice",
    "fault": "an illegal memory access: every later call of that process fails too",
    "abort": "the process aborts",
    "kill": "the process is killed",
    "kill-part": "the part is killed",
    "kill-run": "the run itself is killed (SIGKILL)",
    "term": "the run gets SIGTERM",
    "interrupt": "the run gets SIGINT",
    "hang": "it never ends",
    "wrong": "a wrong result",
    "gone": "the device disappears: nothing runs any more",
    "full": "the disk is full, but for what the run keeps free for itself",
    "full-for-good": "the disk is full and stays so",
}


class Planted(Exception):
    """A planted failure, as the device's library would report it."""


class OutOfMemory(Planted):
    """The device's memory does not suffice."""


class Wrong(Exception):
    """The operation gave a wrong result."""


_sticky = ""


@contextmanager
def _ledger() -> Iterator[Any]:
    with (simulation.folder() / LEDGER).open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def measured(**values: Any) -> None:
    """Note in the ledger what an operation has measured: this is what may not be lost. A process whose part has gone
    measures nothing more: its answer reaches nobody."""
    if _part() not in (os.getpid(), os.getppid()):
        os._exit(1)
    with _ledger() as file:
        file.write(json.dumps({"measured": values, "part": os.environ.get(simulation.PART, "")}) + "\n")


def _begin(what: str) -> tuple[str, int, bool]:
    """The operation's part and number, and whether the device has gone before."""
    part = os.environ.get(simulation.PART, "")
    with _ledger() as file:
        file.seek(0)
        lines = [json.loads(line) for line in file]
        number = 1 + sum("operation" in line and line["part"] == part for line in lines)
        file.write(json.dumps({"operation": what, "part": part, "number": number}) + "\n")
        return part, number, any("gone" in line for line in lines)


def operate(what: str, seconds: float) -> None:
    """One operation, and what is planted in it.

    Raises:
        Planted: for a failure that the library would report.
        Wrong: after its time, if its result is wrong.
    """
    global _sticky
    part, number, gone = _begin(what)
    if _sticky or gone:
        raise Planted(_sticky or "CUDA error: no CUDA-capable device is detected")
    kinds = [kind for kind, where, at in simulation.plan()["failures"] if where == part and at == number]
    slow = any(kind == "slow" and where == part and number >= at for kind, where, at in simulation.plan()["failures"])
    seconds = simulation.real(seconds * random.uniform(0.97, 1.03) * (SLOWER if slow else 1.0))
    time.sleep(seconds / 2)
    for kind in kinds:
        _fail(kind)
    time.sleep(seconds / 2)
    if "wrong" in kinds:
        raise Wrong(what)


def _fail(kind: str) -> None:
    global _sticky
    if kind == "oom":
        raise OutOfMemory(OUT_OF_MEMORY)
    if kind == "fault":
        _sticky = STICKY
        raise Planted(STICKY)
    if kind == "gone":
        with _ledger() as file:
            file.write(json.dumps({"gone": True}) + "\n")
        raise Planted("CUDA error: unspecified launch failure")
    if kind == "hang":
        while True:
            time.sleep(60)
    if kind in ("full", "full-for-good"):
        (simulation.folder() / simulation.DISK_FULL).write_text(kind, encoding="utf-8")
    signals = {"abort": (os.getpid(), signal.SIGABRT), "kill": (os.getpid(), signal.SIGKILL),
               "kill-part": (_part(), signal.SIGKILL), "kill-run": (simulation.plan()["run"], signal.SIGKILL),
               "term": (simulation.plan()["run"], signal.SIGTERM),
               "interrupt": (simulation.plan()["run"], signal.SIGINT)}  # fmt: skip
    if kind in signals:
        time.sleep(LAST)
        os.kill(*signals[kind])
        time.sleep(simulation.real(20))  # until it has arrived


def _part() -> int:
    """The process of the part: this one's parent in a worker, itself in an operator's or a test's process."""
    return int(os.environ.get(simulation.PART_PROCESS, os.getpid()))
