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
import tempfile
import threading
from typing import IO, Any

from bench.cli import BadInput, last_line
from bench.engine.launch import Conditions, start
from bench.engine.request import Request, Settings
from bench.records.record import OUT_OF_MEMORY

ENDING_SECONDS = 5.0
"""What is killed has ended by then, unless who would tell is stopped."""


class Failed(Exception):
    """A process cannot do what it was asked. `oom`: for want of memory; `ended`: it was killed, died, or hangs."""

    def __init__(self, reason: str, oom: bool = False, ended: bool = False) -> None:
        self.reason, self.oom, self.ended = f"{OUT_OF_MEMORY}: {reason}" if oom else reason, oom, ended
        super().__init__(self.reason)


class Process(contextlib.AbstractContextManager["Process"]):
    """A process of its own, for one request or for whatever needs no loaded model.

    `how` it was started is `fork` or `exec`; `why_not_forked` says why, where it was to be forked and was not.
    """

    def __init__(self, settings: Settings, request: Request | None = None, timeout: float = math.inf) -> None:
        self._timeout = timeout  # seconds that one answer may take
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the process)
        self._worker, self.why_not_forked = start(conditions(settings, request), self._errors, settings.process)
        self._inbox: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # a connection that is reset by its death, or that `end` closed
            for line in self._worker.stdout:
                with contextlib.suppress(ValueError):  # a line cut off by the process's death
                    self._inbox.put(json.loads(line))
        self._inbox.put(None)

    @property
    def pid(self) -> int:
        return self._worker.pid

    @property
    def how(self) -> str:
        return self._worker.how

    def ask(self, command: str, **arguments: Any) -> None:
        """Send a command without waiting."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died: what would be its answer says so
            self._worker.stdin.write(json.dumps({"command": command, **arguments}) + "\n")
            self._worker.stdin.flush()

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
            raise Failed(how_it_ended(self._worker.wait(), self._errors), ended=True)
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
        """Stop it and what it has started, whatever they do."""
        self._worker.kill()
        self._reader.join(ENDING_SECONDS)
        streams = [self._worker.stdin, self._worker.stdout]
        if self._reader.is_alive():  # a daemon that the worker has started holds the pipe, and to close it would wait
            streams.pop()
        for stream in streams:
            with contextlib.suppress(OSError, ValueError):
                stream.close()
        self._worker.wait(ENDING_SECONDS)
        self._errors.close()

    def __exit__(self, *_: object) -> None:
        self.end()


def conditions(settings: Settings, request: Request | None = None) -> Conditions:
    """What a worker's process must have before it imports anything."""
    own = dict(request.env) if request else {}
    variables = tuple(sorted((environment(settings.threads) | own).items()))
    python, root = (request.python, request.root) if request else ("", "")
    return Conditions(python, root, variables, settings.imports)


def how_it_ended(code: int | None, errors: IO[bytes]) -> str:
    """In words, from a process's exit status and what it wrote to stderr."""
    if code is None:
        return "its server ended"
    if code == -signal.SIGKILL:
        return "killed by SIGKILL, as the system does when memory runs out"
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    errors.seek(0)
    said = last_line(errors.read().decode(errors="replace"), "")
    return f"process ended with code {code}" + (f": {said}" if said else "")


def environment(threads: int) -> dict[str, str]:
    """This process's environment with the number of CPU threads set."""
    return {**os.environ, **{name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}}
