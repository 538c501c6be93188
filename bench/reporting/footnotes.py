"""The lines below a table of models: conditions, what columns mean, doubts, sources of published figures."""

from __future__ import annotations

from collections.abc import Sequence

from bench.metrics import METRICS
from bench.reporting.rows import Row
from bench.reporting.tables import columns, common_base, shared
from bench.tasks import FIXED_PATH


def footnotes(rows: Sequence[Row], machine: str, sources: bool) -> list[str]:
    """All of them, for a table that stands alone."""
    lines = [f"Measured on {'; '.join(filter(None, (machine, shared(rows))))}."]
    if any(common_base(rows, metric) for metric in columns(rows)):
        lines.append(
            "ratio: under the same conditions; in brackets the 95 % interval over rounds in which the sides took turns."
        )
    lines += [METRICS[metric].meaning for metric in columns(rows) if METRICS[metric].meaning]
    if any(row.task == "detection" for row in rows):
        lines.append(FIXED_PATH)
    if any(row.published(metric) for row in rows for metric in (*columns(rows), "top1")):
        where = "below" if sources else "by --sources"
        lines.append(f"published: by others, not measured here; the sources are listed {where}.")
    return [*lines, *doubts(rows, notes=True), *(sources_of(rows) if sources else [])]


def doubts(rows: Sequence[Row], notes: bool = False) -> list[str]:
    """Reasons why figures are not valid or have no value, and notes if asked for, each once with its figures."""
    figures: dict[tuple[str, str], dict[str, None]] = {}
    for row in rows:
        for metric, item in row.cells.items():
            r = item.record
            conditions = [r.dtype, f"batch {r.batch}"] if r.batch is not None else []
            who = " ".join([r.model, r.resolution, r.form, *conditions])
            for text in (*r.reasons, *(r.notes if notes and not METRICS[metric].cost else ())):
                figures.setdefault((who, text), {})[metric] = None
    return [f"{who} {', '.join(metrics)}: {text}" for (who, text), metrics in figures.items()]


def sources_of(rows: Sequence[Row]) -> list[str]:
    """A line for each published figure of the table's metrics, and of top-1."""
    lines = ["Published figures:"]
    for metric in dict.fromkeys((*columns(rows), "top1")):
        for row in rows:
            for f in row.beside(metric):
                at = "" if metric == "params" else f" at {row.resolution}"
                figure = f"{f.network}{at}: {METRICS[metric].published_as} {f.text} {f.unit}"
                lines.append(f"  {figure} ({f.protocol}). {f.source}, {f.confidence}")
    return list(dict.fromkeys(lines))
