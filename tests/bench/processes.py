"""Processes that tests watch."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

import psutil


def workers_of(pid: int | None = None) -> list[psutil.Process]:
    """The processes that measure which a process (this one by default) has started."""
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = child.parent()
            forked = parent is not None and "bench.engine.server" in parent.cmdline()
            if forked or "bench.engine.worker" in child.cmdline():
                found.append(child)
    return found


def all_end(processes: Sequence[psutil.Process], seconds: float = 15) -> bool:
    """Whether all of them end within `seconds`; one that nobody has reaped has ended."""
    end = time.monotonic() + seconds
    while not all(map(_ended, processes)):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def _ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
