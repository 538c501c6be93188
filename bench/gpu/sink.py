"""A part's end of its connection to the run: whatever it measures is handed over at once. Imports no torch.

A message is a line of JSON on what was the part's stdout; the run (`bench.gpu.running`) keeps it (`bench.gpu.kept`).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from bench.gpu import simulation
from bench.records.record import Record


@dataclass
class Sink:
    """Where a part hands over what it measures, and its time."""

    name: str
    folder: Path
    until: float  # seconds since the epoch
    tiny: bool
    device: str
    channel: IO[str]
    skip: int = 0
    stopping: bool = False  # SIGTERM has come: the next message is the last
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def left(self) -> float:
        """Seconds left for this part."""
        return simulation.run_seconds(self.until - time.time())

    def room(self, seconds: float, what: str) -> bool:
        """Whether there is time for `what`; if not, it is noted as dropped."""
        if self.left >= seconds:
            return True
        self.drop(f"{what} (no time)")
        return False

    def drop(self, what: str) -> None:
        self.tell(dropped=what)

    def keep(self, records: Sequence[Record], key: str = "") -> None:
        """Hand over records. Those of a `key` replace what was handed over for that key before."""
        self.tell(records=[r.to_dict() for r in records], key=key)

    def tell(self, **message: Any) -> None:
        """Hand over a message, whole. After SIGTERM it is the part's last: what was just measured is not lost."""
        with self._lock:
            self.channel.write(json.dumps(message) + "\n")
            self.channel.flush()
        if self.stopping:
            os._exit(128 + signal.SIGTERM)


def sink(args: argparse.Namespace) -> Sink:
    """The sink for a part's arguments. What else is printed goes to stderr from here on, which the run keeps too."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    simulation.part_begins(args.name)
    if os.getpgrp() == os.getpid():  # started by a run, as the leader of its own processes
        threading.Thread(target=_end_with_the_run, args=(os.dup(0),), daemon=True).start()
    until = args.until if args.until and not simulation.running() else time.time() + simulation.real(args.seconds)
    part = Sink(args.name, args.folder, until, args.tiny, args.device, channel, args.skip)
    signal.signal(signal.SIGTERM, lambda number, frame: setattr(part, "stopping", True))
    part.tell(began=True)
    return part


def _end_with_the_run(stdin: int) -> None:
    """Stdin is closed when the run has gone: then nobody would stop this part and what it has started."""
    with contextlib.suppress(OSError):
        while os.read(stdin, 1):
            pass
    os.killpg(0, signal.SIGKILL)
