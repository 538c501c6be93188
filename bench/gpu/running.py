"""Runs the parts of a GPU run, each a process of its own, and keeps what they hand over. Imports no torch."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from bench.gpu import simulation
from bench.gpu.kept import Kept
from bench.gpu.parts import CORRECTNESS, GRACE, Part
from bench.paths import REPOSITORY

LEAST = 5.0
"""Seconds with which a part is still begun."""

STARTS = 6
"""How often a part that goes on after a crash is started, at most."""

LAST = 1.0
"""Real seconds that a part has to hand over what it is just measuring, before it is stopped."""

IMPORTING = 20.0
"""Real seconds that a part of a simulation may take until its own time begins."""


@dataclass
class Run:
    """What holds for all parts of a run."""

    kept: Kept
    folder: Path  # where the parts find each other's files
    end: float  # seconds since the epoch
    device: str
    tiny: bool = False
    live: list[Running] = field(default_factory=list)

    def parts(self, parts: Sequence[Part]) -> None:
        """Run the parts one after another, each until its own time or that of the whole run is over.

        Parts with `beside` run at the same time as the tests, which time nothing; every other part waits for them.
        """
        beside: list[Running] = []
        try:
            for part in parts:
                if part.beside:
                    beside.append(self._start(part))
                    continue
                if part.name not in CORRECTNESS:
                    self._wait(beside)
                if self.left < LEAST:
                    self.kept.end(part.name, -1, 0.0, "dropped: no time was left")
                else:
                    self._through(part)
            self._wait(beside)
        finally:
            for running in list(self.live):
                self._finished(running, "stopped with the run")

    @property
    def left(self) -> float:
        """Seconds left for the run."""
        return simulation.run_seconds(self.end - time.time())

    def _wait(self, beside: list[Running]) -> None:
        while beside:
            self._finished(beside.pop(0))

    def _through(self, part: Part) -> None:
        """Run one part; if it goes on after a crash, again behind the case that it crashed in, while there is time."""
        end = time.time() + simulation.real(part.seconds)
        for start in range(1, STARTS + 1):
            begun = self.kept.cases.get(part.name, 0)
            crashed = self._finished(self._start(part, skip=begun))
            end = min(end, self.end)
            left = simulation.run_seconds(end - time.time())
            if not (part.goes_on and crashed and self.kept.cases.get(part.name, 0) > begun and left > 2 * LEAST):
                return
            part = replace(part, seconds=left)
            self.kept.take(part.name, {"dropped": f"what case {self.kept.cases[part.name]} had left (start {start})"})

    def _start(self, part: Part, skip: int = 0) -> Running:
        until = min(time.time() + simulation.real(part.seconds), self.end)
        command = [sys.executable, "-m", part.module, "--name", part.name, "--folder", str(self.folder.resolve()),
                   "--seconds", f"{simulation.run_seconds(until - time.time()):.1f}", "--until", str(until),
                   "--device", self.device, "--skip", str(skip), *part.arguments,
                   *(["--tiny"] if self.tiny else [])]  # fmt: skip
        seconds = simulation.run_seconds(until - time.time())
        print(f"{part.name}: {part.purpose} (up to {seconds:.0f} s)", file=sys.stderr, flush=True)
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,  # closed when this process is gone: `bench.gpu.sink`
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        slack = IMPORTING if simulation.running() else 0.0
        running = Running(part, process, until + simulation.real(GRACE) + slack, time.time())
        assert process.stdout is not None
        assert process.stderr is not None
        running.read(process.stdout, lambda line: self._message(running, line))
        running.read(process.stderr, lambda line: self.kept.log(part.name, line))
        self.live.append(running)
        return running

    def _message(self, running: Running, line: bytes) -> None:
        try:
            message: dict[str, Any] = json.loads(line)
        except ValueError:  # cut off by the part's death
            self.kept.log(running.part.name, line)
            return
        if "began" in message and simulation.running():
            running.end = min(
                time.time() + simulation.real(running.part.seconds + GRACE), self.end + simulation.real(GRACE)
            )
        try:
            self.kept.take(running.part.name, message)
        except ValueError as error:  # a record that is refused is kept as it came, and those after it are heard
            self.kept.log(running.part.name, line)
            self.kept.take(running.part.name, {"dropped": f"a message, which stands in the log: {error}"})

    def _finished(self, running: Running, why: str = "") -> bool:
        """Wait for a part, or stop it and what it started when its time is over, or now for `why`; whether it crashed
        by itself."""
        process, part = running.process, running.part
        while process.poll() is None and not why and time.time() < running.end:
            time.sleep(0.02)
        code = process.poll()
        if code is None:  # it may hand over what it is just measuring
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=LAST)
        _stop(process)
        for thread in running.threads:  # what it handed over last is kept before its end is
            thread.join(timeout=5.0)
        if code is None:
            how = why or "stopped at its time; what it had measured is kept"
        elif code < 0:
            how = f"killed by {signal.Signals(-code).name}"
        else:
            how = "done" if code == 0 else f"ended with code {code}: {self.kept.last_line(part.name)}"
        self.live.remove(running)
        self.kept.end(part.name, -1 if code is None else code, simulation.run_seconds(time.time() - running.began), how)
        return code not in (None, 0)


@dataclass
class Running:
    """A part under way."""

    part: Part
    process: subprocess.Popen[bytes]
    end: float  # when it is stopped
    began: float
    threads: list[threading.Thread] = field(default_factory=list)

    def read(self, stream: IO[bytes], each: Callable[[bytes], None]) -> None:
        """Have a thread call `each` with every line of a stream."""

        def lines() -> None:
            with contextlib.suppress(OSError, ValueError):
                for line in stream:
                    each(line)

        thread = threading.Thread(target=lines, daemon=True)
        thread.start()
        self.threads.append(thread)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the part's own process group: what it started goes with it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
