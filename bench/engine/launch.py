"""How a worker is started: forked from a server that has imported everything, or as a fresh interpreter.

There is a server (`bench.engine.server`) for each set of conditions that must be set before an import: interpreter,
checkout, environment, and modules to import beside. Where forking is not safe, or a server cannot be had, workers are
fresh interpreters, and the reason is logged and kept (`Worker.how`). Imports no torch.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO

from bench.cli import last_line
from bench.paths import REPOSITORY

log = logging.getLogger(__name__)

# The suite's own code from here, the networks' packages from another checkout: `bench` is imported first, its modules
# are found beside it, and everything else is looked up in the other root before anywhere else; here last, since an
# installed suite lies among the libraries.
FROM_ANOTHER_ROOT = """
import importlib, os, sys
here, root, module = sys.argv[1:4]
others = [p for p in sys.path if p and os.path.realpath(p) not in (here, os.path.realpath(os.getcwd()))]
sys.path[:] = [here, *others]
import bench
sys.path[:] = [root, *others, here]
importlib.import_module(module).main()
"""

FORK, EXEC = "fork", "exec"
MOST_SERVERS = 3
"""Of this process, at a time: each holds about 500 MB, most of it shared with the workers."""

START_SECONDS = 300.0
"""A server that has not imported everything by then is given up."""

FORK_SECONDS = 60.0
"""A server that has not forked by then is given up: it is stopped, say, and nobody lets it go on."""


@dataclass(frozen=True)
class Conditions:
    """What must be as it is before anything is imported."""

    python: str = ""  # this interpreter
    root: str = ""  # this checkout
    variables: tuple[tuple[str, str], ...] = ()  # the whole environment
    imports: tuple[str, ...] = ()
    folder: str = field(default_factory=os.getcwd)  # where modules may lie

    def command(self, module: str) -> list[str]:
        """The command line that runs one of the suite's modules."""
        python = self.python or sys.executable
        if not self.root:
            return [python, "-m", module]
        return [python, "-c", FROM_ANOTHER_ROOT, str(REPOSITORY), str(Path(self.root).resolve()), module]

    @property
    def environment(self) -> dict[str, str]:
        return dict(self.variables)


class Worker:
    """A started worker: text streams to it and from it, its pid, how it was started, and how it ends."""

    def __init__(self, conditions: Conditions, errors: IO[bytes]) -> None:
        """A fresh interpreter."""
        self.how = EXEC
        self._process = subprocess.Popen(
            conditions.command("bench.engine.worker"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            errors="replace",
            encoding="utf-8",
            env=conditions.environment,
            cwd=conditions.folder,
            start_new_session=True,  # Ctrl-C is for this process's parent alone
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.stdin: IO[str] = self._process.stdin
        self.stdout: IO[str] = self._process.stdout
        self.pid = self._process.pid

    def wait(self, seconds: float | None = None) -> int | None:
        """Wait for its end, `seconds` at most; its exit status, negative for a signal, None where nobody can know.

        What it has started ends with it.
        """
        if self._process.returncode is None and seconds is None:
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
            kill_session(self.pid)  # as long as it is not reaped, the number is its own
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        """End it and what it has started."""
        if self._process.returncode is None:
            kill_session(self.pid)


class Forked(Worker):
    """A worker forked from a server."""

    def __init__(self, server: Server, errors: IO[bytes]) -> None:
        self.how = FORK
        self._connection, self._status, self.pid = server.fork(errors)
        self.stdin = self._connection.makefile("w", encoding="utf-8")
        self.stdout = self._connection.makefile("r", encoding="utf-8")
        self._code: int | None = None
        self._ended = False

    def wait(self, seconds: float | None = None) -> int | None:
        if not self._ended:
            with contextlib.suppress(OSError, EOFError):
                if self._status.poll(seconds):
                    self._code = self._status.recv()
            self._ended = True
            self._status.close()
        return self._code

    def kill(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)  # who waits for an answer waits no longer
        self._connection.close()
        if not self._ended:  # as long as the server has not said that it ended, the pid is its own
            kill_session(self.pid)


def kill_session(leader: int) -> None:
    """End a process that leads a session, and what it has started there: compilers, loaders, a user's own."""
    for kill in (os.killpg, os.kill):  # the second for one that is only about to lead
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(leader, signal.SIGKILL)


class NoServer(Exception):
    """Workers cannot be forked, and why."""


class Server:
    """The parent's end of a server."""

    def __init__(self, conditions: Conditions) -> None:
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the server)
        self._control, theirs = socket.socketpair()
        self.why_not = ""
        self._waiting = True
        try:
            self._process = subprocess.Popen(
                conditions.command("bench.engine.server"),
                stdin=theirs.fileno(),
                stdout=self._errors,
                stderr=self._errors,
                env=conditions.environment,
                cwd=conditions.folder,
                start_new_session=True,
            )
        finally:
            theirs.close()
        self._control.settimeout(START_SECONDS)
        with contextlib.suppress(OSError):  # it has ended: what would be its answer says so
            self._control.sendall(json.dumps({"imports": conditions.imports}).encode())

    def fork(self, errors: IO[bytes]) -> tuple[socket.socket, Connection, int]:
        """A worker's connection, the one on which its exit status comes, and its pid.

        Raises:
            NoServer: if it cannot fork, has ended, or does not answer.
        """
        self._ready()
        with contextlib.ExitStack() as failed, contextlib.ExitStack() as given:
            ours, theirs = socket.socketpair()
            status, telling = Pipe(duplex=False)
            for end in (ours, status):
                failed.enter_context(end)
            for end in (theirs, telling):
                given.enter_context(end)
            try:
                socket.send_fds(self._control, [b"fork"], [theirs.fileno(), errors.fileno(), telling.fileno()])
            except OSError as error:
                raise NoServer(f"the server of workers ended: {error.strerror}") from error
            given.close()
            if not status.poll(FORK_SECONDS):
                raise NoServer(f"the server of workers does not answer within {FORK_SECONDS:g} s")
            try:
                answer = status.recv()
            except (OSError, EOFError) as error:
                raise NoServer("the server of workers ended") from error
            if isinstance(answer, str):
                raise NoServer(answer)
            failed.pop_all()
            return ours, status, answer

    def _ready(self) -> None:
        """Wait until it has imported everything."""
        if self._waiting:
            answer: dict[str, str] = {}
            # a line that is cut off is its death's
            with contextlib.suppress(OSError, ValueError), self._control.makefile("r", encoding="utf-8") as messages:
                answer = json.loads(messages.readline())
            self._errors.seek(0)
            said = last_line(self._errors.read().decode(errors="replace"), "it said nothing")
            self.why_not = answer.get("why_not", f"the server of workers did not start: {said}")
            self._waiting = False
        if self.why_not:
            raise NoServer(self.why_not)

    def end(self) -> None:
        """Stop it. Its workers go on until their connections are closed."""
        self._control.close()
        if self._process.returncode is None:
            kill_session(self._process.pid)
        self._process.wait()
        self._errors.close()


_servers: dict[Conditions, Server] = {}
_reasons: dict[Conditions, str] = {}
"""Why workers of these conditions are not forked."""


@atexit.register
def end_servers() -> None:
    """End all servers of this process."""
    while _servers:
        _servers.popitem()[1].end()


def preload(conditions: Conditions) -> None:
    """Start the server of these conditions, if there is to be one, without waiting for it."""
    if sys.platform != "linux":
        _reasons[conditions] = f"forking is not safe on {sys.platform}"
    if conditions in _servers or conditions in _reasons:
        return
    while len(_servers) >= MOST_SERVERS:
        _servers.pop(next(iter(_servers))).end()
    try:
        _servers[conditions] = Server(conditions)
    except OSError as error:
        _refuse(conditions, f"the server of workers cannot start: {error.strerror or error}")


def start(conditions: Conditions, errors: IO[bytes], way: str = FORK) -> tuple[Worker, str]:
    """A worker, and why it is not forked (empty if it is, or was not to be)."""
    if way == EXEC:
        return Worker(conditions, errors), ""
    reason = ""
    for _ in range(2):  # a server that was killed is started once more
        preload(conditions)
        if conditions in _reasons:
            return Worker(conditions, errors), _reasons[conditions]
        server = _servers.pop(conditions)
        try:
            worker = Forked(server, errors)
        except BaseException as error:
            server.end()
            if not isinstance(error, NoServer):  # Ctrl-C
                raise
            reason = str(error)
            if server.why_not:
                _refuse(conditions, reason)
        else:
            _servers[conditions] = server  # the last used is the last to go
            return worker, ""
    log.warning("a worker is a fresh interpreter: %s", reason)
    return Worker(conditions, errors), reason


def _refuse(conditions: Conditions, reason: str) -> None:
    _reasons[conditions] = reason
    log.warning("workers are fresh interpreters: %s", reason)
