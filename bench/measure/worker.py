"""The process that measures: `python -m bench.measure.worker`, started by `bench.measure.runner`.

It reads one line of JSON on stdin (`{"check": {...} or null, "jobs": [...]}`) and writes messages, a line of JSON each,
to what was its stdout: `checked`, `record`, `done` (of a job) or `bad_input`. It ends when stdin is closed.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from bench.cli import BadInput
from bench.measure.job import COST, MEMORY, THROUGHPUT, Job
from bench.records import OUT_OF_MEMORY, Record

log = logging.getLogger(__name__)


def main() -> None:
    """Do what stdin asks."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints stays out of the messages
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s", stream=sys.stderr)
    try:
        if request["check"] is not None:
            from bench.measure.check import check

            _send(channel, type="checked", **check(request["check"]))
        for values in request["jobs"]:
            for record in measure(Job.from_dict(values)):
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
    from bench.measure.environment import now
    from bench.measure.speed import is_out_of_memory

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
    from bench.measure import cost
    from bench.measure.subject import counted_structure, describe_structure, resolve

    entry = resolve(job.model)
    model = counted_structure(entry, job.form)
    structure = describe_structure(entry, job.form)
    notes = (f"counted on {structure}",) if structure else ()
    for record in templates:
        if record.metric == "params":
            yield replace(record, value=cost.count_parameters(model), method="parameters of the structure", notes=notes)
            continue
        try:
            macs = cost.count_macs(model, job.resolution).macs
        except cost.CostError as error:
            yield record.failed(str(error))
        else:
            yield replace(record, value=macs, method=cost.METHOD, notes=notes)


def _prepare(job: Job, templates: list[Record]) -> tuple[Any, list[Record]]:
    """The model on its device, and the records with the conditions that are known now."""
    import torch

    from bench.measure import speed, subject

    s = job.settings
    torch.set_num_threads(s.threads)
    weights = Path(s.weights[job.model]) if job.model in s.weights else None
    model = subject.load(subject.resolve(job.model), job.form, weights, s.seed, s.backend)
    assert isinstance(s.batch, int)
    layout = "channels_first" if s.layout == "auto" else s.layout
    ready = subject.place(model, s.device, s.dtype, layout, s.batch, job.resolution, s.seed)
    if s.layout == "auto":
        speed.faster_layout(ready)
    with subject.BackendsSeen() as seen:
        problems = subject.check_outputs(ready)
    backend = "+".join(sorted(seen.names))
    if backend and s.backend not in ("auto", backend):
        raise RuntimeError(f"ContMix ran {backend}, not {s.backend} as asked for")
    label = subject.weights_label(weights, s.seed)
    return ready, [
        replace(r, layout=ready.layout, backend=backend, weights=label, valid=not problems, reasons=problems)
        for r in templates
    ]


def _throughput(job: Job, templates: list[Record]) -> Iterator[Record]:
    from bench.measure import speed

    ready, (record,) = _prepare(job, templates)
    budget = speed.QUICK if job.settings.quick else speed.DEFAULT
    assert record.batch is not None
    result = speed.throughput(ready, record.batch, budget)
    notes = []
    if not result.steady:
        notes.append(f"warm-up did not settle within {budget.warmup:g} s")
    if result.launch_bound:
        notes.append("launch bound: the host is no quicker than the device")
    rate = result.images_per_second
    yield replace(record, value=rate.median, lo=rate.lo, hi=rate.hi, n=rate.n, method=speed.METHOD, notes=tuple(notes))


def _memory(job: Job, templates: list[Record]) -> Iterator[Record]:
    from bench.measure import memory

    ready, (record,) = _prepare(job, templates)
    result = memory.measure(ready)
    peak = result.peak
    yield replace(record, value=peak.median, lo=peak.lo, hi=peak.hi, n=peak.n, method=result.method)
    yield replace(record, metric="memory_weights", value=result.weights, method="parameters and buffers as loaded")
    if result.reserved is not None:
        yield replace(record, metric="memory_reserved", value=result.reserved, n=1, method="peak reserved")


_MEASURES = {COST: _cost, THROUGHPUT: _throughput, MEMORY: _memory}

if __name__ == "__main__":
    main()
