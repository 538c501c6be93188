"""The parent's end of a process that measures: commands are sent to it, answers come back. Imports no torch.

`bench.engine.worker` is the other end. Both ways a message is one line of JSON. Commands are answered in their order,
and several may be sent before the first is answered.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from bench.cli import BadInput
from bench.engine.request import TIMED, Request
from bench.machine.environment import STEADY_ALLOCATOR
from bench.metrics import MEMORY
from bench.paths import REPOSITORY
from bench.records.record import OUT_OF_MEMORY

# The suite's own code from here, the networks' packages from another checkout: `bench` is imported first, its modules
# are found beside it, and everything else is looked up in the other root before anywhere else.
FROM_ANOTHER_ROOT = """
import os, sys
here, root = sys.argv[1:3]
sys.path[:] = [here] + [p for p in sys.path if p and os.path.realpath(p) not in (here, os.path.realpath(os.getcwd()))]
import bench
sys.path[0] = root
from bench.engine.worker import main
main()
"""

MAPPING_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""Environment of a process that measures memory, where the user does not set it: see `bench.engine.memory`."""

ALLOCATORS = {**dict.fromkeys(TIMED, STEADY_ALLOCATOR), MEMORY: MAPPING_ALLOCATOR}


class Failed(Exception):
    """A process cannot do what it was asked. `oom`: for want of memory; `ended`: it was killed, died, or hangs."""

    def __init__(self, reason: str, oom: bool = False, ended: bool = False) -> None:
        self.reason, self.oom, self.ended = f"{OUT_OF_MEMORY}: {reason}" if oom else reason, oom, ended
        super().__init__(self.reason)


class Process:
    """A fresh process, for one request or for whatever needs no loaded model."""

    def __init__(self, threads: int, request: Request | None = None, timeout: float = math.inf) -> None:
        self._timeout = timeout  # seconds that one answer may take
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the process)
        python, root = (request.python, request.root) if request else ("", "")
        allocator, own = (ALLOCATORS.get(request.kind, {}), request.env) if request else ({}, {})
        self._process = start(python, root, allocator | environment(threads) | dict(own), self._errors)
        self._inbox: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with contextlib.suppress(ValueError):  # a line cut off by the process's death
                self._inbox.put(json.loads(line))
        self._inbox.put(None)

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, command: str, **arguments: Any) -> None:
        """Send a command without waiting."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died: what would be its answer says so
            self._process.stdin.write(json.dumps({"command": command, **arguments}) + "\n")
            self._process.stdin.flush()

    def poll(self, seconds: float) -> dict[str, Any] | None:
        """The answer to the earliest command that is not answered; None if it does not come within `seconds`.

        Raises:
            Failed: if the process could not do it, or ended.
            BadInput: if what the user gave cannot be used.
        """
        try:
            message = self._inbox.get(timeout=seconds)
        except queue.Empty:
            return None
        if message is None:
            self._inbox.put(None)  # also for whoever asks again
            raise Failed(how_it_ended(self._process.wait(), self._errors), ended=True)
        if "bad_input" in message:
            raise BadInput(message["bad_input"])
        if "error" in message:
            raise Failed(message["error"], oom=message["oom"])
        return message

    def answer(self) -> dict[str, Any]:
        """The answer to the earliest command that is not answered; raises what `poll` raises, also after a timeout."""
        waited = 0.0
        while (message := self.poll(1.0)) is None:  # waiting in short steps lets Ctrl-C through everywhere
            waited += 1.0
            if waited >= self._timeout:
                raise Failed(f"no answer within {self._timeout:g} s", ended=True)
        return message

    def call(self, command: str, **arguments: Any) -> dict[str, Any]:
        """`ask`, then `answer`."""
        self.ask(command, **arguments)
        return self.answer()

    def end(self) -> None:
        """Stop it, whatever it does."""
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError, ValueError):
                    stream.close()
        self._process.wait()
        self._errors.close()

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()


def start(python: str, root: str, variables: Mapping[str, str], errors: IO[bytes]) -> subprocess.Popen[str]:
    """Start a worker by this interpreter or another, with the networks of this checkout or of another."""
    command = [python or sys.executable, "-m", "bench.engine.worker"]
    if root:
        command[1:] = ["-c", FROM_ANOTHER_ROOT, str(REPOSITORY), str(Path(root).resolve())]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        encoding="utf-8",
        env=dict(variables),
        start_new_session=True,  # Ctrl-C is for this process's parent alone
    )


def how_it_ended(code: int, errors: IO[bytes]) -> str:
    """In words, from a process's exit status and what it wrote to stderr."""
    if code == -signal.SIGKILL:
        return "killed by SIGKILL, as the system does when memory runs out"
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()
    return f"process ended with code {code}" + (f": {lines[-1]}" if lines else "")


def environment(threads: int) -> dict[str, str]:
    """This process's environment with the number of CPU threads set."""
    return {**os.environ, **{name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}}
