"""The process that measures: `python -m bench.engine.worker`, started by `bench.engine.runner`.

It reads one line of JSON on stdin (`{"check": {...} or null, "jobs": [...]}`) and writes messages, a line of JSON each,
to what was its stdout: `checked`, `record`, `done` (of a job) or `bad_input`. It ends when stdin is closed.
"""

from __future__ import annotations

import functools
import gc
import json
import logging
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from dataclasses import replace
from typing import IO, Any

from filelock import FileLock

from bench.cli import BadInput
from bench.engine.job import COST, LARGEST_BATCH, MEMORY, TURN, Job
from bench.profile import breakdown
from bench.profile.breakdown import BREAKDOWN
from bench.records.record import OUT_OF_MEMORY, Record

log = logging.getLogger(__name__)


def main() -> None:
    """Do what stdin asks."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints stays out of the messages
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s", stream=sys.stderr)
    from bench.engine.check import check, import_modules

    try:
        if request["check"] is not None:
            _send(channel, type="checked", **check(request["check"]))
        for values in request["jobs"]:
            job = Job.from_dict(values)
            import_modules(job.settings.imports)
            for record in measure(job):
                _send(channel, type="record", record=record.to_dict())
            _send(channel, type="done")
    except BadInput as error:
        _send(channel, type="bad_input", message=str(error))


def _end_with_parent() -> None:
    while os.read(0, 1):  # empty once the parent has closed it, or is gone
        pass
    os._exit(1)


def _send(channel: IO[str], **message: Any) -> None:
    channel.write(json.dumps(message) + "\n")
    channel.flush()


def measure(job: Job) -> Iterator[Record]:
    """The records of one job. What fails is a record too, with the reason; only bad input is raised."""
    from bench.engine.speed import is_out_of_memory
    from bench.machine.environment import now

    gc.freeze()  # what the imports made stays: the collector need not look through it while we count or time
    templates = [replace(record, time=now()) for record in job.records()]
    try:
        yield from _MEASURES[job.kind](job, templates)
    except BadInput:
        raise
    except Exception as error:  # a model that fails is a result of its row, not the end of the run
        traceback.print_exc()
        text = " ".join(str(error).split())
        reason = f"{OUT_OF_MEMORY}: {text}" if is_out_of_memory(error) else f"{type(error).__name__}: {text}"
        yield from (record.failed(reason[:300]) for record in templates)


def _cost(job: Job, templates: list[Record]) -> Iterator[Record]:
    from bench.cost.count import CostError
    from bench.engine.tasks import task_of

    for template in templates:
        try:
            counted = list(task_of(job).count(job, template.metric))
        except CostError as error:
            yield template.failed(str(error))
            continue
        for figure in counted:
            yield replace(
                template,
                metric=figure.metric,
                value=figure.value,
                counter=figure.counter,
                method=figure.method,
                notes=figure.notes,
            )


def _prepare(job: Job, templates: list[Record], batch: int) -> tuple[Any, list[Record]]:
    """The subject of a measurement, and its records with all conditions filled in; invalid if outputs are no good."""
    import torch

    from bench.engine import subject

    torch.set_num_threads(job.settings.threads)
    ready = subject.prepare(job, batch)
    _wait_for_turn()
    if job.settings.layout == "auto":
        from bench.engine import speed

        speed.faster_layout(ready)
    checked = subject.check(ready)
    asked = job.settings.backend
    if checked.backend and asked not in ("auto", checked.backend):
        raise RuntimeError(f"ContMix ran {checked.backend}, not {asked} as asked for")
    label = subject.weights_label_of(job)
    conditions: dict[str, Any] = {"layout": ready.layout, "backend": checked.backend, "weights": label}
    return ready, [replace(r, **conditions, valid=not checked.problems, reasons=checked.problems) for r in templates]


@functools.cache
def _wait_for_turn() -> FileLock | None:
    """Take the lock by which processes that loaded side by side measure one after another; held until this one ends."""
    path = os.environ.get(TURN)
    if not path:
        return None
    lock = FileLock(path)
    lock.acquire()
    return lock


def _memory(job: Job, templates: list[Record]) -> Iterator[Record]:
    from bench.engine import memory

    assert isinstance(job.settings.batch, int)
    ready, (record,) = _prepare(job, templates, job.settings.batch)
    result = memory.measure(ready)
    peak = result.peak
    yield replace(record, value=peak.median, lo=peak.lo, hi=peak.hi, n=peak.n, method=result.method)
    yield replace(record, metric="memory_weights", value=result.weights, method="parameters and buffers as loaded")
    for metric, value, method in result.further:
        yield replace(record, metric=metric, value=value, n=1, method=method)


def _largest_batch(job: Job, templates: list[Record]) -> Iterator[Record]:
    from bench.engine import fit

    ready, (record,) = _prepare(job, templates, 1)
    result = fit.largest_batch(ready, job.resolution, job.settings.memory_budget)
    yield replace(record, value=result.batch, method=result.method, notes=result.notes)


def _breakdown(job: Job, templates: list[Record]) -> Iterator[Record]:
    assert isinstance(job.settings.batch, int)
    ready, (record,) = _prepare(job, templates, job.settings.batch)
    yield from breakdown.measure(record, ready)


_MEASURES = {COST: _cost, MEMORY: _memory, LARGEST_BATCH: _largest_batch, BREAKDOWN: _breakdown}

if __name__ == "__main__":
    main()
