"""The parent's end of a process that measures one side. Imports no torch."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO, Any

from bench.cli import BadInput
from bench.engine.side import Plan, Side
from bench.machine.environment import STEADY_ALLOCATOR

REPOSITORY = Path(__file__).resolve().parent.parent.parent

# The suite's own code from here, the networks' packages from another checkout: `bench` is imported first, its modules
# are found beside it, and everything else is looked up in the other root before anywhere else.
FROM_ANOTHER_ROOT = """
import os, sys
here, root = sys.argv[1:3]
sys.path[:] = [here] + [p for p in sys.path if p and os.path.realpath(p) not in (here, os.path.realpath(os.getcwd()))]
import bench
sys.path[0] = root
from bench.engine.replicate import main
main()
"""


class Failed(Exception):
    """A side cannot go on in this process. `oom`: for want of memory; `ended`: the process was killed, or died."""

    def __init__(self, reason: str, oom: bool = False, ended: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.oom, self.ended = reason, oom, ended


class SideProcess:
    """A fresh process for one side; `ask` sends a command, `answer` waits for its result."""

    def __init__(self, side: Side, plan: Plan) -> None:
        self.side, self.plan = side, plan
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the process)
        python = side.python or sys.executable
        if side.root:
            command = [python, "-c", FROM_ANOTHER_ROOT, str(REPOSITORY), str(Path(side.root).resolve())]
        else:
            command = [python, "-m", "bench.engine.replicate"]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            env=STEADY_ALLOCATOR | environment(side.settings.threads) | dict(side.env),
            start_new_session=True,  # Ctrl-C is for this process's parent alone
        )
        self._inbox: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with contextlib.suppress(ValueError):  # a line cut off by the process's death
                self._inbox.put(json.loads(line))
        self._inbox.put(None)

    def ask(self, do: str, **arguments: Any) -> None:
        """Send a command without waiting."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died: its answer tells
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """The result of the command that was asked.

        Raises:
            Failed: if the side failed, or its process ended or took too long.
            BadInput: if what the user gave cannot be used.
        """
        waited = 0.0
        while True:
            try:
                message = self._inbox.get(timeout=1.0)  # a timeout lets Ctrl-C through everywhere
                break
            except queue.Empty:
                waited += 1.0
                if waited >= self.plan.timeout:
                    raise Failed(f"no answer within {self.plan.timeout:g} s", ended=True) from None
        if message is None:
            raise Failed(how_it_ended(self._process.wait(), self._errors), ended=True)
        if "bad_input" in message:
            raise BadInput(message["bad_input"])
        if "error" in message:
            raise Failed(message["error"], oom=message["oom"])
        return message

    def call(self, do: str, **arguments: Any) -> dict[str, Any]:
        """`ask`, then `answer`."""
        self.ask(do, **arguments)
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
