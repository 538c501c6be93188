"""Rows as one wide table for programs: whole units, one fact in each column. Its column names are an interface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.metrics import METRICS, PAIRED, QUOTIENT
from bench.published import distinct
from bench.reporting.rows import Row
from bench.reporting.tables import columns, status

CONDITIONS = ("model", "form", "resolution", "dtype", "batch", "layout", "compile", "threads", "backend", "device")


def wide(rows: Sequence[Row], baseline: str) -> list[dict[str, Any]]:
    """A dictionary for each row, all with the same keys.

    A ratio is to `baseline`'s figure under the same conditions, in the same form or in the only one it has: of what was
    timed the measured one of paired rounds, with its interval; of anything else the quotient.
    """
    metrics = [metric for metric in columns(rows) if METRICS[metric].unit != "ratio"]
    return [_row(row, _base(rows, row, baseline), metrics) for row in rows]


def _base(rows: Sequence[Row], row: Row, baseline: str) -> Row | None:
    """The baseline's row under the same conditions."""
    same = ("task", "head", "resolution", "training", "device", "dtype", "compile", "threads", "batch")
    alike = [r for r in rows if r.model == baseline and r.under_the(same) == row.under_the(same)]
    return max(alike, key=lambda r: r.form == row.form, default=None)


def _row(row: Row, base: Row | None, metrics: Sequence[str]) -> dict[str, Any]:
    made: dict[str, Any] = {name: getattr(row, name) for name in CONDITIONS}
    for metric in metrics:
        made |= _cells(row, base, metric)
    made |= _published(row, "top1")
    records = {metric: placed.record for metric, placed in row.cells.items()}
    made["valid"] = all(record.valid for record in records.values())
    made["reasons"] = "; ".join(f"{metric}: {reason}" for metric, r in records.items() for reason in r.reasons)
    return made


def _cells(row: Row, base: Row | None, metric: str) -> dict[str, Any]:
    of, record = METRICS[metric], row.record(metric)
    cells = {metric: record and record.value, f"{metric}_status": status(record) if record else ""}
    if of.spread:
        cells |= {f"{metric}_{end}": record and getattr(record, end) for end in ("lo", "hi")}
    if of.published:
        cells |= _published(row, metric)
    ours, theirs = row.valid(metric), base.valid(metric) if base else None
    quotient = ours / theirs if ours is not None and theirs else None
    if of.ratio == QUOTIENT:
        cells[f"{metric}_ratio"] = quotient
    elif of.ratio == PAIRED:
        paired = row.record(f"{metric}_ratio")
        known = paired if paired is not None and paired.valid and quotient is not None else None
        cells[f"{metric}_ratio"] = known.value if known else quotient if row is base else None
        cells |= {f"{metric}_ratio_{end}": known and getattr(known, end) for end in ("lo", "hi")}
    return cells


def _published(row: Row, metric: str) -> dict[str, Any]:
    """The first of the figures that contradict each other, in whole units, and all of them as printed."""
    figures = distinct(row.beside(metric))
    return {
        f"{metric}_published": figures[0].value if figures else None,
        f"{metric}_published_all": "/".join(figure.text for figure in figures),
    }
