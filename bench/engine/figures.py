"""Records of an interleaved measurement: a figure for each metric, with conditions, interval, samples and doubts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from statistics import median

import numpy as np

from bench.engine.outcome import Outcome, Replicate
from bench.engine.statistics import Ratio, Summary, interval_of_median
from bench.machine.environment import now
from bench.metrics import METRICS, of_kind
from bench.profile.paths import depthwise_path
from bench.records.record import Record


def records_of(outcome: Outcome, wanted: Sequence[str], bases: Sequence[int | None]) -> Iterator[Record]:
    """The records of an interleaved measurement, side by side; side i's ratio is to side `bases[i]`, if it is any."""
    given = of_kind(outcome.sides[0].kind)
    for i, base in enumerate(bases):
        replicates = outcome.of(i)
        for metric in given:
            if metric in wanted:
                yield _figure(_template(outcome, i, metric), replicates)
        name = f"{given[0]}_ratio"
        if base is not None and name in wanted and (ratio := outcome.ratio(i, base)) is not None:
            yield _ratio(_template(outcome, i, name), ratio, _template(outcome, base, name))


def _template(outcome: Outcome, i: int, metric: str) -> Record:
    """The record of a side's metric without its value."""
    side, replicates = outcome.sides[i], outcome.of(i)
    settled = [r.warm for r in outcome.replicates[i] if r is not None]
    problems = tuple(dict.fromkeys(problem for warm in settled for problem in warm["problems"]))
    failures = tuple(dict.fromkeys(outcome.failures[i])) or ("not run",)
    reasons = problems if replicates else failures
    convolutions = depthwise_path(next((r.last["ran"] for r in replicates if r.last.get("ran")), {}))
    record = side.record(metric)
    return replace(
        record,
        method=METRICS[metric].method,
        backend="+".join(sorted({warm["backend"] for warm in settled if warm["backend"]})),
        weights=replicates[0].warm.get("weights", "") if replicates else record.weights,
        valid=bool(replicates) and not reasons,
        noise=outcome.noise(),
        moved=tuple(r.moved for r in replicates if r.last),
        reasons=reasons,
        notes=(*outcome.notes_of(i), *([f"convolutions by {convolutions}"] if convolutions else [])),
        time=now(),
    )


def _figure(record: Record, replicates: Sequence[Replicate]) -> Record:
    """The record with its value, or why there is none."""
    if not replicates:
        return record
    if record.metric in _PERCENT:
        return _tail(record, replicates, _PERCENT[record.metric])
    samples = [value for r in replicates if (value := _SAMPLES[record.metric](r)) is not None]
    if not samples:
        return replace(record, valid=False, reasons=(*record.reasons, METRICS[record.metric].missing))
    return _filled(record, interval_of_median(samples), samples)


def _filled(record: Record, summary: Summary, samples: Sequence[float]) -> Record:
    return replace(
        record, value=summary.median, lo=summary.lo, hi=summary.hi, n=summary.n, samples=tuple(map(float, samples))
    )


def _tail(record: Record, replicates: Sequence[Replicate], percent: int) -> Record:
    """A percentile of all calls: one process makes too few for its own tail."""
    own = [float(np.percentile(r.each, percent)) for r in replicates]
    value = float(np.percentile([seconds for r in replicates for seconds in r.each], percent))
    return replace(record, value=value, lo=min(own), hi=max(own), n=len(own), samples=tuple(own))


_PERCENT = {"latency_p90": 90, "latency_p99": 99}
_SAMPLES: dict[str, Callable[[Replicate], float | None]] = {
    "throughput": lambda r: r.images_per_second,
    "training": lambda r: r.images_per_second,
    "latency": lambda r: r.seconds,
    "cold_start": lambda r: r.warm["cold"],
    "compile_time": lambda r: r.warm["compile"],
    "energy": lambda r: median(r.energy) if r.energy else None,
}


def _ratio(record: Record, ratio: Ratio, base: Record) -> Record:
    """The record of a paired ratio to what `base` is a record of, above 1 where the side is faster."""
    single = ("a single round has no interval",) if ratio.n == 1 else ()
    reasons = tuple(dict.fromkeys((*record.reasons, *base.reasons, *single)))
    notes = (f"smallest visible difference {ratio.smallest_visible:.1%}",) if ratio.n > 1 else ()
    return replace(
        _filled(record, Summary(ratio.value, ratio.lo, ratio.hi, ratio.n), ratio.samples),
        against=f"{base.model} {base.form}",
        valid=not reasons,
        reasons=reasons,
        notes=notes,
    )
