"""Breakdowns and rooflines out of records: which parts a model's time, MACs, parameters and activations are in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from bench.evidence.evidence import Placed
from bench.profile.breakdown import AMOUNTS, BYTES, PREFIX
from bench.reporting.data import Report
from bench.reporting.rows import Row, main_rows


@dataclass
class Breakdown:
    """One model's breakdown: (by what, of what) -> part -> value; by "operator" or "stage"."""

    model: str
    form: str
    resolution: str
    machine: str
    under: str
    parts: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)


def breakdowns(placed: Iterable[Placed]) -> list[Breakdown]:
    """The newest breakdown of each model, form, resolution and machine.

    A record's metric is `breakdown/<by>/<of>/<part>`.
    """
    made: dict[tuple[str, ...], tuple[str, Breakdown]] = {}
    for item in sorted(placed, key=lambda f: f.record.time):
        r = item.record
        if not r.metric.startswith(f"{PREFIX}/") or r.value is None or not r.valid:
            continue
        _, by, of, part = r.metric.split("/", 3)
        key = (r.model, r.form, r.resolution, r.machine, r.device, r.dtype)
        run, breakdown = made.get(key, ("", None))
        if breakdown is None or run != r.run:
            breakdown = Breakdown(*key[:4], f"{r.device} {r.dtype} batch {r.batch}")
            made[key] = (r.run, breakdown)
        if of in AMOUNTS:
            breakdown.parts.setdefault((by, of), {})[part] = item.value
    return [breakdown for _, breakdown in made.values()]


@dataclass(frozen=True)
class Point:
    """A model on the roofline: MACs per byte that its operators move, and MACs per second achieved."""

    row: Row
    intensity: float
    rate: float


@dataclass(frozen=True)
class Roofline:
    """A machine's measured peaks, MACs/s and bytes/s, and the models under them."""

    machine: str
    dtype: str
    peak: float
    bandwidth: float
    points: tuple[Point, ...]


def rooflines(report: Report) -> list[Roofline]:
    """A roofline for each machine, device and dtype whose peaks and models' bytes are recorded."""
    newest: dict[tuple[str, ...], Placed] = {}
    moved: dict[tuple[str, ...], Placed] = {}
    for item in sorted(report.evidence.all, key=lambda f: f.record.time):
        r = item.record
        if r.value is None or not r.valid:
            continue
        if r.metric in ("peak_macs", "copy_bandwidth"):
            newest[r.machine, r.device, r.metric, r.dtype if r.metric == "peak_macs" else ""] = item
        elif r.metric == BYTES:
            moved[r.machine, r.device, r.dtype, r.model, r.form, r.resolution] = item
    made = []
    for (machine, device, metric, dtype), peak in newest.items():
        bandwidth = newest.get((machine, device, "copy_bandwidth", ""))
        if metric == "peak_macs" and bandwidth is not None:
            points = tuple(_points(report, moved, machine, device, dtype))
            if points:
                made.append(Roofline(machine, dtype, peak.value, bandwidth.value, points))
    return made


def _points(
    report: Report, moved: Mapping[tuple[str, ...], Placed], machine: str, device: str, dtype: str
) -> Iterable[Point]:
    for row in main_rows(report.rows):
        size = moved.get((machine, device, dtype, row.model, row.form, row.resolution))
        here = (row.machine, row.device, row.dtype) == (machine, device, dtype)
        macs, speed = row.value("macs"), row.value("throughput")
        if here and size is not None and macs and speed:
            yield Point(row, macs / size.value, macs * speed)
