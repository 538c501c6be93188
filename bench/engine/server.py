"""The process that workers are forked from: `python -m bench.engine.server`, started by `bench.engine.launch`.

It imports PyTorch, timm and the packages once, so that a worker costs a fork and not five seconds of imports. Its
stdin is a Unix socket. The first message names modules to import beside (`{"imports": [...]}`) and is answered by
`{"why_not": reason}`: empty if it can fork safely, which it can while it has a single thread and no CUDA context.
Each further message comes with three descriptors: the worker's connection (its stdin and stdout), its stderr, and the
pipe on which the server sends the worker's pid, or why there is none, and its exit status when it ends. The server ends
when its stdin is closed, and its workers when their connections are.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import random
import selectors
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection

from bench.engine.launch import kill_session

PRELOADED = (
    "torch",
    "timm",
    "overlock",
    "baselines",
    "bench.engine.check",
    "bench.engine.worker",
    "bench.engine.speed",
    "bench.engine.memory",
    "bench.machine.canary",
    "bench.cost.count",
    "bench.profile.paths",
)
"""What nearly every worker needs."""

MESSAGE = 65536
SHIFT = 1 << 20


def main() -> None:
    """Serve until stdin is closed."""
    control = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    first = control.recv(MESSAGE)
    if not first:
        return
    preload(json.loads(first)["imports"])
    control.sendall(json.dumps({"why_not": why_not_fork()}).encode() + b"\n")
    _serve(control)


def preload(imports: Sequence[str]) -> None:
    """Import what workers need. A module that cannot be imported is left to the worker, which says what is wrong."""
    with _one_thread_of_blas():
        for name in ("numpy", "scipy.linalg"):
            importlib.import_module(name)
    for name in (*PRELOADED, *imports):
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever a user's module raises, and so will it in the worker
            print(f"{name} is not preloaded: {type(error).__name__}: {error}", file=sys.stderr)


@contextlib.contextmanager
def _one_thread_of_blas() -> Iterator[None]:
    """NumPy's and SciPy's own OpenBLAS start no threads while they are imported; PyTorch's products don't use them."""
    name = "OPENBLAS_NUM_THREADS"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def why_not_fork() -> str:
    """Why a fork of this process would not be safe; empty if it is."""
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        return f"importing started threads ({threads} run), and a fork would lose them"
    import torch

    pid = os.fork()
    if pid == 0:
        os._exit(int(getattr(torch._C, "_cuda_isInBadFork", bool)()))
    if os.waitpid(pid, 0)[1]:
        return "importing asked CUDA for its devices, which a fork cannot use then"
    return ""


def _serve(control: socket.socket) -> None:
    """Fork a worker for each message, and tell how each ended."""
    gc.collect()
    gc.freeze()  # the collector of a worker need not touch, and so copy, what is shared with it
    here, wake = socket.socketpair()
    here.setblocking(False)
    wake.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wake.fileno())
    status: dict[int, Connection] = {}
    selector = selectors.DefaultSelector()
    selector.register(control, selectors.EVENT_READ)
    selector.register(here, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is here:
                with contextlib.suppress(BlockingIOError):
                    here.recv(MESSAGE)
                continue
            message, descriptors, _, _ = socket.recv_fds(control, MESSAGE, 3)
            if not message:
                return
            connection, errors, status_number = descriptors
            status_of = Connection(status_number)
            try:
                pid = os.fork()
            except OSError as error:
                _tell(status_of, f"cannot fork: {error.strerror}")
                status_of.close()
            else:
                if pid == 0:
                    _become_worker(connection, errors, [control, here, wake, status_of, *status.values()], selector)
                status[pid] = status_of
                _tell(status_of, pid)
            os.close(connection)
            os.close(errors)
        _reap(status)


def _reap(status: dict[int, Connection]) -> None:
    while status:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return
        if ended.si_pid in status:  # and is no process that an imported module has started
            kill_session(ended.si_pid)  # as long as it is not reaped, the number is its own
        _, code = os.waitpid(ended.si_pid, 0)
        if ended.si_pid in status:
            with status.pop(ended.si_pid) as listener:
                _tell(listener, os.waitstatus_to_exitcode(code))


def _tell(to: Connection, message: int | str) -> None:
    with contextlib.suppress(OSError):  # nobody listens any more
        to.send(message)


def _become_worker(
    connection: int, errors: int, inherited: Sequence[socket.socket | Connection], selector: selectors.BaseSelector
) -> None:
    """In the child: leave the server's things, take the connection, and be a worker until it is closed."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        selector.close()
        for one in inherited:
            one.close()
        os.setsid()
        os.dup2(connection, 0)
        os.dup2(connection, 1)
        os.dup2(errors, 2)
        os.close(connection)
        os.close(errors)
        sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
        _shift()
        from bench.engine.worker import main as work

        work()
    except BaseException:  # this process is a copy of the server, and must end here whatever happens
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


_kept: list[bytearray] = []


def _shift() -> None:
    """Move where this process's memory will lie: forks of one server would all have its layout, and their spread would
    be less than that of processes that are started one by one."""
    chance = random.SystemRandom()
    _kept.extend(bytearray(chance.randrange(64, SHIFT // 8)) for _ in range(chance.randrange(1, 64)))


if __name__ == "__main__":
    main()
