"""The summary of a GPU run: its figures, operators and losses as a short text. Importing this imports no torch.

Experimental: it has not summarised a run on a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.gpu.parts import DEPTHWISE
from bench.records.record import Record
from bench.render import table

RATIOS = (
    "OverLoCK-T deploy / ConvNeXt-B",
    "OverLoCK-T deploy / its plain form",
    "OverLoCK-XT / ConvNeXt-T, training step",
)
"""The ratios of the headline, as the notes of their records begin: bfloat16, batch 256, 224x224, each model in its best
configuration."""

NOT_MEASURED = "not measured"


def read(out: Path) -> dict[str, list[Record]]:
    """The records of each part; a file that cannot be read is left out and named."""
    from bench.cli import BadInput
    from bench.records import store

    records: dict[str, list[Record]] = {}
    for file in sorted(out.glob("*.csv")):
        try:
            records[file.stem] = store.read(file)
        except BadInput as error:
            print(f"{file.name}: {error}")
    return records


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
        row = next((r for r in every if r.against and any(note.startswith(name) for note in r.notes)), None)
        if row is None:
            shown.append(Figure(name, None))
            continue
        interval = f"{row.lo:.2f} to {row.hi:.2f}, {row.n} rounds" if row.lo is not None and row.hi is not None else ""
        shown.append(Figure(name, row.value, interval, "; ".join(row.reasons)))
    floor = [r for r in every if r.metric == "over_floor" and r.model == "contmix stage 3" and r.form == "forward"]
    fused = next((r for r in floor if r.backend == "fused" and r.dtype == "bfloat16" and r.batch == 256), None)
    shown.append(Figure("fused ContMix, stage 3 of T: time over its floor", fused.value if fused else None))
    peaks = {r.model: r for r in records.get("headline", ()) if r.metric == "memory" and r.value}
    ours, theirs = (peaks.get(name) for name in ("overlock_t", "convnext_b"))
    doubts = "; ".join(reason for r in (ours, theirs) if r for reason in r.reasons)
    ratio = ours.value / theirs.value if ours and theirs and ours.value and theirs.value else None
    shown.append(Figure("peak memory, OverLoCK-T / ConvNeXt-B", ratio, doubts=doubts))
    return shown


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


def summary(out: Path, environment: Mapping[str, Any], parts: Sequence[tuple[str, str, float, str]], dry: bool) -> str:
    """The text of `summary.md`, with the five figures last."""
    from bench.machine.environment import describe

    records = read(out)
    lines = [f"Measured on {describe(dict(environment))}."]
    if dry:
        lines.append("Dry run: tiny models on a CPU. The figures test the script and mean nothing.")
    lines += [
        "",
        table(("part", "s", "how it went"), [(name, f"{s:.0f}", how) for name, _, s, how in parts], "markdown"),
    ]
    for file in sorted(out.glob("*.dropped")):
        dropped = file.read_text(encoding="utf-8").splitlines()
        lines.append(f"\n{file.stem}: no time for {len(dropped)} rows: {'; '.join(dropped)}")
    timed = [r for name in ("contmix", "depthwise") for r in records.get(name, ())]
    operators = [r for r in timed if r.metric == "operator_time"]
    if operators:
        over = {_key(r): r.value for r in timed if r.metric == "over_floor"}
        rows: list[tuple[Any, ...]] = [
            (r.model, r.form, r.backend, r.dtype, r.layout, r.batch, _time(r), _number(over.get(_key(r))))
            for r in operators
        ]
        lines += [
            "",
            table(("operator", "pass", "by", "dtype", "layout", "batch", "us", "x floor"), rows, "markdown", words=5),
        ]
        tokens = faster_from(operators)
        if tokens:
            lines.append(f"\nFused ContMix beats tiled from {tokens} tokens (batch x map) on: `fused.FASTER_FROM`.")
    models = [r for name in ("headline", "training") for r in records.get(name, ()) if not r.against]
    if models:
        rows = [
            (r.model, r.form, r.resolution, r.batch, r.dtype, r.backend, _depthwise(r), r.compile, r.metric, _figure(r),
             r.unit)
            for r in models
        ]  # fmt: skip
        headings = ("model", "form", "size", "batch", "dtype", "ContMix", "depthwise", "compile", "metric", "value",
                    "unit")  # fmt: skip
        lines += ["", table(headings, rows, "markdown")]
    shown = [
        (f.what, _number(f.value) or NOT_MEASURED, f.interval, f"invalid: {f.doubts}" if f.doubts else "")
        for f in figures({} if dry else records)
    ]
    columns = ("figure", "measured", "95 % interval", "doubts")
    lines += ["", table(columns, shown, "markdown")]
    return "\n".join(lines)


def _key(r: Record) -> tuple[object, ...]:
    return r.model, r.form, r.backend, r.dtype, r.layout, r.batch, r.resolution


def _depthwise(r: Record) -> str:
    return next((note.removeprefix(DEPTHWISE).strip() for note in r.notes if note.startswith(DEPTHWISE)), "")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _time(r: Record) -> str:
    return f"{r.value * 1e6:.1f}" if r.value is not None else "; ".join(r.reasons)[:60]


def _figure(r: Record) -> str:
    if r.value is None:
        return "; ".join(r.reasons)[:60] or NOT_MEASURED
    return f"{r.value:.4g}" + ("" if r.valid else " (invalid)")
