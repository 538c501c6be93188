"""The summary of a GPU run: its figures, operators and losses as a short text. Importing this imports no torch.

Experimental: it has not summarised a run on a GPU.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import prod
from statistics import median
from typing import NamedTuple

from bench.gpu.headline import OF_PLAIN, OF_STEP, OF_T
from bench.gpu.kept import Kept
from bench.gpu.parts import DEPTHWISE
from bench.records.record import Record
from bench.render import by_heading, table

RATIOS = (OF_T, OF_PLAIN, OF_STEP)
"""The ratios of the headline, as the notes of their records begin: bfloat16, batch 256, 224x224."""

NOT_MEASURED = "not measured"


class Figure(NamedTuple):
    """One of the five figures that the run is for."""

    what: str
    value: float | None
    interval: str = ""
    doubts: str = ""  # why it is not valid


def figures(records: Mapping[str, Sequence[Record]]) -> list[Figure]:
    """The five figures that the run is for."""
    every = [r for rows in records.values() for r in rows]
    shown = []
    for name in RATIOS:
        row = best_ratio([r for r in every if r.against and any(note.startswith(name) for note in r.notes)], every)
        if row is None:
            shown.append(Figure(name, None))
            continue
        interval = f"{row.lo:.2f} to {row.hi:.2f}, {row.n} rounds" if row.lo is not None and row.hi is not None else ""
        shown.append(Figure(name, row.value, interval, "; ".join(row.reasons)))
    floor = [r for r in every if r.metric == "over_floor" and r.model == "contmix stage 3" and r.form == "forward"]
    fused = next((r for r in floor if r.backend == "fused" and r.dtype == "bfloat16" and r.batch == 256), None)
    shown.append(Figure("fused ContMix, stage 3 of T: time over its floor", fused.value if fused else None))
    peaks = {r.model: r for r in every if r.metric == "memory" and r.value}
    ours, theirs = (peaks.get(name) for name in ("overlock_t", "convnext_b"))
    doubts = "; ".join(reason for r in (ours, theirs) if r for reason in r.reasons)
    ratio = ours.value / theirs.value if ours and theirs and ours.value and theirs.value else None
    shown.append(Figure("peak memory, OverLoCK-T / ConvNeXt-B", ratio, doubts=doubts))
    return shown


def best_ratio(ratios: Sequence[Record], every: Sequence[Record]) -> Record | None:
    """The ratio of the fastest configurations: that whose sides' speeds, as they were measured beside it, have the
    largest product; a valid one before others."""
    rate = {_of_record(r): r.value for r in every if r.metric in ("throughput", "training") and r.value is not None}

    def speed(ratio: Record) -> float:
        note = next((note for note in ratio.notes if " against " in note), "")
        return prod(rate.get(_of_name(side), 0.0) for side in note.partition(": ")[2].split(" against "))

    return max(ratios, key=lambda r: (r.valid, speed(r)), default=None)


def _of_name(name: str) -> tuple[str, ...]:
    """Model, form and way to run of a configuration's name; ContMix's backend left out."""
    match = re.match(r"(\S+) (\S+) \([^,]*, (.*)\)$", name)
    return match.groups() if match else (name,)


def _of_record(r: Record) -> tuple[str, ...]:
    """As `_of_name`, of a record."""
    depthwise = next((note for note in r.notes if note.startswith(DEPTHWISE)), "")
    return r.model, r.form, f"{r.compile}, {r.layout}, {depthwise}"


def faster_from(operators: Sequence[Record]) -> int | None:
    """The least number of tokens (batch x map) from which fused ContMix beats tiled in every case; None if it never
    does."""
    times: dict[tuple[str, ...], dict[str, float]] = {}
    tokens: dict[tuple[str, ...], int] = {}
    for r in operators:
        if r.model.startswith("contmix") and "," not in r.model and r.value is not None:  # in the default launch
            case = (r.model, r.form, r.dtype, str(r.batch))
            times.setdefault(case, {})[r.backend] = r.value
            tokens[case] = int(r.resolution) ** 2 * (r.batch or 1)
    fewest = None
    wins = [(tokens[case], by["fused"] < by["tiled"]) for case, by in times.items() if by.keys() >= {"fused", "tiled"}]
    for count, faster in sorted(wins, key=lambda pair: (-pair[0], pair[1])):  # a loss comes first
        if not faster:
            break
        fewest = count
    return fewest


def summary(kept: Kept, real: bool, verdict: str = "") -> str:
    """The text of `summary.md`, with the five figures last; they are of a `real` run alone."""
    from bench.machine.environment import describe

    records = {part: kept.of(part) for part in kept.records}
    lines = [f"Measured on {describe(dict(kept.environment))}."]
    if not real:
        lines.append("Not on a GPU: the figures test the script and mean nothing.")
    if verdict:
        lines.append(f"\nKernels: {verdict}")
    went = [(p["part"], f"{p['seconds']:.0f}", p["how"]) for p in kept.parts]
    lines += ["", table(("part", "s", "how it went"), went, "markdown")]
    for part, dropped in kept.dropped.items():
        lines.append(f"\n{part}: {len(dropped)} rows are missing: {'; '.join(dropped)}")
    lines += _unfinished(kept, records)
    timed = [r for name in ("contmix", "depthwise") for r in records.get(name, ())]
    operators = [r for r in timed if r.metric == "operator_time"]
    if operators:
        eager = {_key(r): r for r in timed if r.metric == "operator_time_eager"}
        over = {_key(r): r.value for r in timed if r.metric == "over_floor"}
        timings = [
            {"operator": r.model, "pass": r.form, "by": r.backend, "dtype": r.dtype, "layout": r.layout,
             "batch": r.batch, "us": _time(r), "us, eager": _time(eager[_key(r)]) if _key(r) in eager else "",
             "x floor": over.get(_key(r))}
            for r in operators
        ]  # fmt: skip
        lines += ["", by_heading(timings, "markdown", words=5)]
        tokens = faster_from(operators)
        if tokens and real:
            lines.append(f"\nFused ContMix beats tiled from {tokens} tokens (batch x map) on: `fused.FASTER_FROM`.")
    models = [r for name, rows in records.items() if name not in ("contmix", "depthwise") for r in rows]
    if models:
        shown = [
            {"model": r.model, "form": r.form, "batch": r.batch, "dtype": r.dtype, "layout": r.layout,
             "ContMix": r.backend, "depthwise": _depthwise(r), "compile": r.compile, "metric": r.metric,
             "value": _figure(r), "unit": r.unit}
            for r in models if not r.against
        ]  # fmt: skip
        lines += ["", by_heading(shown, "markdown")]
    last = [
        {"figure": f.what, "measured": NOT_MEASURED if f.value is None else f.value, "95 % interval": f.interval,
         "doubts": f"invalid: {f.doubts}" if f.doubts else ""}
        for f in figures(records if real else {})
    ]  # fmt: skip
    lines += ["", by_heading(last, "markdown")]
    return "\n".join(lines)


def _unfinished(kept: Kept, records: Mapping[str, Sequence[Record]]) -> list[str]:
    """Blocks of sides that have no figure: their process, or their part, ended before its round did."""
    known = {(part, *_of_record(r)) for part, rows in records.items() for r in rows if r.value is not None}
    blocks: dict[tuple[str, str], list[float]] = {}
    for block in kept.blocks:
        if (block["part"], *_of_name(block["side"])) not in known:
            blocks.setdefault((block["part"], block["side"]), []).append(block["seconds"])
    return [
        f"\n{part}: {side}: no figure, but {len(seconds)} blocks, {1e3 * median(seconds):.2f} ms a call"
        for (part, side), seconds in blocks.items()
    ]


def _key(r: Record) -> tuple[object, ...]:
    return r.model, r.form, r.backend, r.dtype, r.layout, r.batch, r.resolution


def _depthwise(r: Record) -> str:
    return next((note.removeprefix(DEPTHWISE).strip() for note in r.notes if note.startswith(DEPTHWISE)), "")


def _time(r: Record) -> str:
    return f"{r.value * 1e6:.1f}" if r.value is not None else "; ".join(r.reasons)[:60]


def _figure(r: Record) -> str:
    if r.value is None:
        return "; ".join(r.reasons)[:60] or NOT_MEASURED
    return f"{r.value:.4g}" + ("" if r.valid else " (invalid)")
