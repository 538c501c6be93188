"""Stands for `bench.compare` in sweeps: takes no time, and ends as its first argument says."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from bench.records import store
from bench.records.record import Record

ENVIRONMENT = {"machine": "planted", "cpu": "none"}


def figure(value: float, run: str) -> Record:
    return Record(
        model="tiny", form="deploy", metric="throughput", value=value, unit="images/s", resolution="32",
        machine="planted", run=run,
    )  # fmt: skip


def main(how: str, name: str, resume: str) -> int:
    """`fine` keeps two records; `killed` is, once, after the first, with its job; `stopped` gets SIGTERM once;
    `waits` until a file lets it go on, from the second attempt at once; `refused` is bad input."""
    folder = Path(resume.removeprefix("--resume="))
    known = store.machines(folder)
    if how == "refused":
        print("planted: error: no such thing", file=sys.stderr)
        return 2
    if not known:
        store.save([figure(1.0, f"{name}-1")], ENVIRONMENT, folder)
        if how == "killed":
            os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "stopped":
            os.kill(os.getpid(), signal.SIGTERM)
        while how == "waits" and not (folder.parent / "go").exists():
            time.sleep(0.05)
    store.save([figure(2.0, f"{name}-2")], ENVIRONMENT, folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
