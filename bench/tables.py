"""Records as one wide table: a row per model, form and resolution; measured, published and ratio side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from tabulate import tabulate

from bench.models import Entry
from bench.published import distinct, figures
from bench.records import OUT_OF_MEMORY, Record

Key = tuple[str, str, str]  # model, form, resolution


@dataclass(frozen=True)
class Column:
    """How a metric is shown: its heading, what its value is divided by, and the digits after the point."""

    heading: str
    divisor: float
    digits: int
    published: str = ""  # heading of the published figure, if there are any
    spread: bool = False


COLUMNS: Mapping[str, Column] = {
    "params": Column("params M", 1e6, 2, "params M (pub.)"),
    "macs": Column("MACs G", 1e9, 2, "FLOPs G (pub.)"),
    "throughput": Column("images/s", 1, 1, spread=True),
    "memory": Column("memory MiB", 2**20, 1),
}
"""Metrics of the comparison, in the table's order."""

TOP1 = "top-1 % (pub.)"
CONDITIONS = ("form", "dtype", "layout", "batch", "threads", "backend", "device")
"""Conditions that are a column where rows differ in them, and a word in the line below the table where they don't."""


def wide(records: Sequence[Record], entries: Mapping[str, Entry], baseline: str | None) -> pd.DataFrame:
    """A row per model, form and resolution, in the order of the records, for programs: whole units, one fact a column.

    A ratio is to `baseline`'s figure at the same resolution, in the same form or in the only one it has.
    """
    cells: dict[Key, dict[str, Record]] = {}
    for record in records:
        cells.setdefault((record.model, record.form, record.resolution), {})[record.metric] = record
    shown = [metric for metric in COLUMNS if any(metric in row for row in cells.values())]
    rows = []
    for (model, form, resolution), found in cells.items():
        row: dict[str, Any] = {"model": model, "form": form, "resolution": resolution}
        for condition in CONDITIONS[1:]:
            row[condition] = next((v for r in found.values() if (v := getattr(r, condition)) not in (None, "")), None)
        base = _baseline_row(cells, entries, baseline, form, resolution)
        for metric in shown:
            published = _published(entries[model], form, metric, resolution)
            row |= _cells(metric, found.get(metric), base.get(metric), published)
        top1 = distinct(figures(entries[model], "top1", resolution))
        row["top1_published"] = top1[0].value if top1 else None
        row["top1_published_all"] = "/".join(f.text for f in top1)
        row["valid"] = all(r.valid for r in found.values())
        row["reasons"] = "; ".join(f"{r.metric}: {reason}" for r in found.values() for reason in r.reasons)
        rows.append(row)
    return pd.DataFrame(rows)


def _baseline_row(
    cells: Mapping[Key, dict[str, Record]],
    entries: Mapping[str, Entry],
    baseline: str | None,
    form: str,
    resolution: str,
) -> dict[str, Record]:
    if baseline is None:
        return {}
    (own, *_) = entries[baseline].forms(form)
    return cells.get((baseline, own, resolution), {})


def _published(entry: Entry, form: str, metric: str, resolution: str) -> list[Any]:
    """Published cost is of the deploy form: none is beside another form's."""
    if not COLUMNS[metric].published or form != "deploy":
        return []
    return distinct(figures(entry, metric, resolution))


def _cells(metric: str, record: Record | None, base: Record | None, published: list[Any]) -> dict[str, Any]:
    value = record.value if record else None
    cells: dict[str, Any] = {metric: value, f"{metric}_status": _status(record)}
    if COLUMNS[metric].spread:
        cells |= {f"{metric}_lo": record.lo if record else None, f"{metric}_hi": record.hi if record else None}
    if COLUMNS[metric].published:
        cells[f"{metric}_published"] = published[0].value if published else None
        cells[f"{metric}_published_all"] = "/".join(figure.text for figure in published)
    comparable = record and base and record.valid and base.valid and value is not None and base.value
    cells[f"{metric}_ratio"] = value / base.value if comparable and base and base.value and value is not None else None
    return cells


def _status(record: Record | None) -> str:
    """Empty for a good figure, else what stands in its place or marks it."""
    if record is None or record.valid:
        return ""
    if record.out_of_memory:
        return OUT_OF_MEMORY
    return "failed" if record.value is None else "invalid"


def for_people(frame: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of the table that people read, from `wide`'s frame."""
    headings, columns = ["model", "size"], [list(frame["model"]), list(frame["resolution"])]
    for condition in CONDITIONS:
        if frame[condition].dropna().nunique() > 1:
            headings.append(condition)
            columns.append([_text(v) for v in frame[condition]])
    for metric, column in COLUMNS.items():
        if metric not in frame:
            continue
        headings.append(column.heading)
        columns.append([_measured(row, metric, column) for _, row in frame.iterrows()])
        if column.published and (frame[f"{metric}_published_all"] != "").any():
            headings.append(column.published)
            columns.append(list(frame[f"{metric}_published_all"]))
        if frame[f"{metric}_ratio"].notna().any():
            headings.append("ratio")
            columns.append(["" if pd.isna(v) else f"{v:.2f}" for v in frame[f"{metric}_ratio"]])
    if (frame["top1_published_all"] != "").any():
        headings.append(TOP1)
        columns.append(list(frame["top1_published_all"]))
    return headings, [list(row) for row in zip(*columns, strict=True)]


def _text(value: Any) -> str:
    if pd.isna(value):
        return ""
    return str(int(value)) if isinstance(value, float) else str(value)


def _measured(row: pd.Series[Any], metric: str, column: Column) -> str:
    value, status = row[metric], row[f"{metric}_status"]
    if pd.isna(value):
        return str(status)
    text = f"{value / column.divisor:.{column.digits}f}"
    if column.spread and not pd.isna(row[f"{metric}_lo"]):
        text += f" ±{(row[f'{metric}_hi'] - row[f'{metric}_lo']) / 2 / value:.1%}"
    return f"{text} ({status})" if status else text


def shared_conditions(frame: pd.DataFrame) -> str:
    """The conditions that all rows share, in words."""
    words = {"form": "{} form", "batch": "batch {}", "threads": "CPU threads {}", "backend": "ContMix {}"}
    parts = []
    for condition in CONDITIONS:
        values = frame[condition].dropna().unique()
        if len(values) == 1:
            parts.append(words.get(condition, "{}").format(_text(values[0])))
    return ", ".join(parts)


def render(frame: pd.DataFrame, style: str) -> str:
    """The table as text: table (plain), markdown, latex or csv."""
    if style == "csv":
        return frame.to_csv(index=False).rstrip("\n")
    headings, rows = for_people(frame)
    tablefmt = {"table": "simple", "markdown": "github", "latex": "latex_booktabs"}[style]
    words = ("model", "size", "form", "dtype", "layout", "backend", "device")
    align = ["left" if heading in words else "right" for heading in headings]
    if style == "table":
        headings = [heading.replace(" ", "\n", 1) for heading in headings]
    return tabulate(rows, headings, tablefmt=tablefmt, colalign=align, disable_numparse=True)


def below(
    frame: pd.DataFrame,
    records: Sequence[Record],
    machine: str,
    baseline: str,
    sources: bool,
    entries: Mapping[str, Entry],
) -> list[str]:
    """The lines under the table: machine and conditions, what columns mean, what went wrong, the sources if asked."""
    lines = [f"Measured on {'; '.join(filter(None, (machine, shared_conditions(frame))))}."]
    if any(frame[c].notna().any() for c in map(str, frame) if c.endswith("_ratio")):
        lines.append(f"ratio: to {baseline} at the same resolution.")
    if "throughput" in frame:
        lines.append("images/s: median of blocks, ± half the range from the 20th to the 80th percentile.")
    if "memory" in frame:
        lines.append("memory: peak of a call above the loaded model.")
    if "macs" in frame:
        lines.append("MACs: multiply-adds of convolutions, linear layers, matrix products and ContMix, for one image.")
    if any((frame[c] != "").any() for c in map(str, frame) if c.endswith("_published_all")):
        where = "below" if sources else "by --sources"
        lines.append(f"(pub.): published by others, not measured here; the sources are listed {where}.")
    for record in records:
        who = f"{record.model} {record.resolution} {record.form} {record.metric}"
        lines += [f"{who}: {text}" for text in record.reasons]
        lines += [f"{who}: {text}" for text in record.notes if record.metric not in ("params", "macs")]
    return lines + (_sources(frame, entries) if sources else [])


def _sources(frame: pd.DataFrame, entries: Mapping[str, Entry]) -> list[str]:
    lines = ["Published figures:"]
    for metric in (*(m for m in COLUMNS if m in frame and COLUMNS[m].published), "top1"):
        for model, resolution in frame[["model", "resolution"]].drop_duplicates().itertuples(index=False):
            for f in figures(entries[model], metric, resolution):
                at = f" at {f.resolution}" if f.resolution else ""
                figure = f"{f.model}{at}: {f.metric} {f.text} {f.unit}"
                lines.append(f"  {figure} ({f.protocol}). {f.source}, {f.confidence}")
    return list(dict.fromkeys(lines))


def comment(lines: Sequence[str], style: str) -> list[str]:
    """Lines below a table in its format: comments in LaTeX, a paragraph each in Markdown."""
    if style == "latex":
        return [f"% {line}" for line in lines]
    return [text for line in lines for text in (line, "")][:-1] if style == "markdown" else list(lines)
