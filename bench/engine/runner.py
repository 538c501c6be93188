"""Runs jobs in fresh processes and passes on what they report, whatever happens to a process. Imports no torch."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

from bench.cli import BadInput
from bench.engine.job import ALLOCATOR, MEMORY, TURN, Job
from bench.engine.process import environment, how_it_ended
from bench.records.record import Record, from_dict


class Worker:
    """A worker process with some jobs. Its messages come through `inbox` as (worker, message), the last being None."""

    def __init__(
        self, jobs: Sequence[Job], check: Mapping[str, Any] | None, threads: int, inbox: queue.Queue[Any], turn: str
    ) -> None:
        self.jobs = list(jobs)
        self.checking = check is not None
        self.reported: list[Record] = []  # of the job under way
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the process)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.engine.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            env=_environment(threads, jobs, turn),
            start_new_session=True,  # Ctrl-C is for this process alone
        )
        assert self._process.stdin is not None
        request = {"check": check, "jobs": [job.to_dict() for job in jobs]}
        with contextlib.suppress(BrokenPipeError):  # it died at once: its end tells
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        threading.Thread(target=self._read, args=(inbox,), daemon=True).start()

    def _read(self, inbox: queue.Queue[Any]) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with contextlib.suppress(ValueError):  # a line cut off by the process's death
                inbox.put((self, json.loads(line)))
        inbox.put((self, None))

    def end(self) -> str:
        """Stop it, and say how it ended; empty if it ended by itself and well."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        code = self._process.wait()
        how = how_it_ended(code, self._errors) if code else ""
        self._errors.close()
        return how

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._errors.close()


def _environment(threads: int, jobs: Sequence[Job], turn: str) -> dict[str, str]:
    allocator = ALLOCATOR if any(job.kind == MEMORY for job in jobs) else {}
    return {**allocator, **environment(threads), TURN: turn}


def run(
    batches: Sequence[Sequence[Job]], threads: int, check: Mapping[str, Any] | None = None
) -> Iterator[dict[str, Any] | Record | Job]:
    """Run each batch of jobs in a process of its own, the processes side by side; only one at a time runs a network.

    Yields the answer to `check` (a dict, by the first process), each record as it comes, and each job once it is done.
    When a process dies, the job under way gets records that say how, and a fresh process takes the rest.

    Raises:
        BadInput: if a worker says so; the processes are then stopped, as on any other exception.
    """
    inbox: queue.Queue[Any] = queue.Queue()
    workers: set[Worker] = set()
    folder = tempfile.TemporaryDirectory()
    turn = os.path.join(folder.name, "turn")
    try:
        for i, jobs in enumerate(batches):
            workers.add(Worker(jobs, check if i == 0 else None, threads, inbox, turn))
        while workers:
            try:
                worker, message = inbox.get(timeout=1.0)  # a timeout lets Ctrl-C through everywhere
            except queue.Empty:
                continue
            if message is not None:
                yield from _pass_on(worker, message)
                continue
            workers.remove(worker)
            how = worker.end()
            if worker.checking:
                raise BadInput(f"cannot start measuring: {how or 'the worker ended early'}")
            if worker.jobs:
                job, *rest = worker.jobs
                had = {record.metric for record in worker.reported}
                yield from (r.failed(how or "worker ended early") for r in job.records() if r.metric not in had)
                yield job
                if rest:
                    workers.add(Worker(rest, None, threads, inbox, turn))
    finally:
        for worker in workers:
            worker.kill()
        folder.cleanup()


def _pass_on(worker: Worker, message: dict[str, Any]) -> Iterator[dict[str, Any] | Record | Job]:
    kind = message.pop("type")
    if kind == "bad_input":
        raise BadInput(message["message"])
    if kind == "record":
        record = from_dict(message["record"])
        worker.reported.append(record)
        yield record
    elif kind == "done":
        worker.reported.clear()
        yield worker.jobs.pop(0)
    else:
        assert kind == "checked", f"unknown message {kind}"
        worker.checking = False
        yield message
