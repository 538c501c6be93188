"""From what processes told to records: one figure a metric, with its conditions, interval, samples and doubts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np

from bench.cli import resolution_name
from bench.engine.interleaved import Outcome, Replicate
from bench.engine.job import UNITS
from bench.engine.side import LATENCY, THROUGHPUT, TRAINING
from bench.engine.statistics import Summary, interval_of_median
from bench.machine.environment import now
from bench.profile.paths import depthwise_path
from bench.records.record import Record
from bench.tasks import variant_of

INTERVAL = (
    "median of fresh processes, interleaved with those compared; lo and hi: 95 % interval between order statistics"
)
METHODS = {
    "throughput": f"{INTERVAL}; each process: median of blocks of back-to-back calls",
    "latency": f"{INTERVAL}; each process: median of single calls, each waited for",
    "latency_p90": "90th percentile of all processes' single calls; lo and hi: range of the processes' own",
    "latency_p99": "99th percentile of all processes' single calls; lo and hi: range of the processes' own",
    "training": f"{INTERVAL}; each process: median of blocks of steps (forward, loss, backward, fused AdamW)",
    "cold_start": f"{INTERVAL}; the first call of a process, model loaded",
    "compile_time": f"{INTERVAL}; the first call of a compiled model less a steady one",
    "energy": f"{INTERVAL}; NVML's energy counter over a block, idle power included",
}
RATIO = (
    "geometric mean of rounds, in which both sides' blocks take turns; lo and hi: Student's 95 % interval on logarithms"
)
MOST_LATENCY_TAIL = {"latency_p90": 90, "latency_p99": 99}

OF_KIND = {
    THROUGHPUT: ("throughput", "cold_start", "compile_time", "energy"),
    LATENCY: ("latency", "latency_p90", "latency_p99"),
    TRAINING: ("training",),
}
"""Metrics that one interleaved measurement gives; the first is the one that ratios are of."""

PRIMARY = {kind: metrics[0] for kind, metrics in OF_KIND.items()}


def records_of(outcome: Outcome, kind: str, wanted: Sequence[str], bases: Sequence[int | None]) -> Iterator[Record]:
    """The records of an interleaved measurement, side by side; side i's ratio is to side `bases[i]`, if it is any."""
    for i, base in enumerate(bases):
        found = outcome.of(i)
        template = _template(outcome, i, kind)
        for metric in OF_KIND[kind]:
            if metric in wanted:
                yield _figure(replace(template, metric=metric, unit=UNITS[metric], method=METHODS[metric]), found)
        if base is not None and (name := f"{PRIMARY[kind]}_ratio") in wanted:
            ratio = _ratio(replace(template, metric=name, unit="ratio"), outcome, i, base)
            if ratio is not None:
                yield ratio


def _template(outcome: Outcome, i: int, kind: str) -> Record:
    """What all records of a side have in common."""
    side, found = outcome.sides[i], outcome.of(i)
    s = side.settings
    warm: dict[str, Any] = found[0].warm if found else {}
    told = [r.warm for r in outcome.replicates[i] if r is not None]
    problems = tuple(dict.fromkeys(problem for w in told for problem in w["problems"]))
    reasons = (*problems, *outcome.invalid(i)) if found else tuple(dict.fromkeys(outcome.failures[i])) or ("not run",)
    backends = sorted({w["backend"] for w in told if w["backend"]})
    convolutions = depthwise_path(next((r.last["ran"] for r in found if r.last.get("ran")), {}))
    notes = [*outcome.notes_of(i), *([f"convolutions by {convolutions}"] if convolutions else [])]
    return Record(
        model=side.model,
        form=side.form,
        metric="",
        value=None,
        unit="",
        task=side.task,
        head=side.head,
        variant=variant_of(side.task),
        resolution=resolution_name(side.resolution),
        batch=1 if kind == LATENCY else (s.batch if isinstance(s.batch, int) else None),
        dtype=s.dtype,
        layout=s.layout,
        compile=s.compile,
        backend="+".join(backends),
        threads=s.threads,
        device=s.device,
        weights=warm.get("weights", ""),
        valid=bool(found) and not reasons,
        reasons=reasons,
        notes=tuple(notes),
        time=now(),
    )


def _figure(record: Record, found: Sequence[Replicate]) -> Record:
    """The record with its value, or why there is none."""
    metric = record.metric
    if not found:
        return record
    if metric in MOST_LATENCY_TAIL:
        return _tail(record, found, MOST_LATENCY_TAIL[metric])
    samples = [value for r in found if (value := _SAMPLES[metric](r)) is not None]
    if not samples:
        return replace(record, valid=False, reasons=(*record.reasons, _MISSING[metric]))
    return _filled(record, interval_of_median(samples), samples)


def _filled(record: Record, summary: Summary, samples: Sequence[float]) -> Record:
    return replace(
        record, value=summary.median, lo=summary.lo, hi=summary.hi, n=summary.n, samples=tuple(map(float, samples))
    )


def _tail(record: Record, found: Sequence[Replicate], percent: int) -> Record:
    """A percentile of all calls: one process makes too few for its own tail."""
    own = [float(np.percentile(r.each, percent)) for r in found]
    value = float(np.percentile([seconds for r in found for seconds in r.each], percent))
    return replace(record, value=value, lo=min(own), hi=max(own), n=len(own), samples=tuple(own))


_SAMPLES: dict[str, Callable[[Replicate], float | None]] = {
    "throughput": lambda r: r.images_per_second,
    "training": lambda r: r.images_per_second,
    "latency": lambda r: r.seconds,
    "cold_start": lambda r: r.warm["cold"],
    "compile_time": lambda r: r.warm["compile"],
    "energy": lambda r: median(r.energy) if r.energy else None,
}
_MISSING = {
    "cold_start": "no process's first call was the cold one: give two rounds or more",
    "compile_time": "nothing was compiled: give --compile",
    "energy": "this device has no energy counter that NVML (nvidia-ml-py) tells",
}


def _ratio(record: Record, outcome: Outcome, i: int, base: int) -> Record | None:
    """The record of a paired ratio, above 1 where the side is faster; None without rounds that both sides have."""
    ratio = outcome.ratio(i, base)
    if ratio is None:
        return None
    baseline = _template(outcome, base, "")
    notes = [f"smallest visible difference {ratio.smallest_visible:.1%}"] if ratio.n > 1 else ["a single round"]
    reasons = dict.fromkeys((*record.reasons, *baseline.reasons, *outcome.invalid(i, base)))
    return replace(
        _filled(record, Summary(ratio.value, ratio.lo, ratio.hi, ratio.n), ratio.samples),
        against=f"{baseline.model} {baseline.form}",
        method=RATIO,
        valid=not reasons,
        reasons=tuple(reasons),
        notes=tuple(notes),
    )
