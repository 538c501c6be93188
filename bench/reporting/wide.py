"""Records as one wide table: a row per model, form and resolution; measured, published and ratio side by side."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from tabulate import tabulate

from bench.dense.published import dense_figures
from bench.models import Entry
from bench.published import distinct, figures
from bench.records.record import OUT_OF_MEMORY, Record
from bench.tasks import FIXED_PATH

Key = tuple[str, str, str, str, int | None]  # model, form, resolution, dtype, batch


@dataclass(frozen=True)
class Column:
    """How a metric is shown: its heading, what its value is divided by, and the digits after the point."""

    heading: str
    divisor: float
    digits: int
    published: str = ""  # heading of the published figure, if there are any
    spread: bool = False
    batched: bool = False  # whether the batch bears on it


COLUMNS: Mapping[str, Column] = {
    "params": Column("params M", 1e6, 2, "params M (pub.)"),
    "macs": Column("MACs G", 1e9, 2, "FLOPs G (pub.)"),
    "macs_backbone": Column("backbone G", 1e9, 2),
    "macs_head": Column("head G", 1e9, 2),
    "macs_neck_rpn": Column("neck+RPN G", 1e9, 2),
    "macs_roi_heads": Column("RoI heads G", 1e9, 2),
    "activations": Column("activations M", 1e6, 2),
    "throughput": Column("images/s", 1, 1, spread=True, batched=True),
    "latency": Column("latency ms", 1e-3, 1, spread=True),
    "latency_p90": Column("p90 ms", 1e-3, 1),
    "latency_p99": Column("p99 ms", 1e-3, 1),
    "training": Column("training images/s", 1, 2, spread=True, batched=True),
    "cold_start": Column("first call ms", 1e-3, 0, spread=True, batched=True),
    "compile_time": Column("compile s", 1, 1, spread=True, batched=True),
    "memory": Column("memory MiB", 2**20, 1, batched=True),
    "largest_batch": Column("largest batch", 1, 0),
    "energy": Column("J/image", 1, 3, spread=True, batched=True),
}
"""Metrics of the comparison, in the table's order."""

WITHOUT_RATIO = (
    "latency_p90", "latency_p99", "cold_start", "compile_time",
    "macs_backbone", "macs_head", "macs_neck_rpn", "macs_roi_heads",
)  # fmt: skip

TOP1 = "top-1 % (pub.)"
CONDITIONS = ("form", "dtype", "batch", "layout", "compile", "threads", "backend", "device")
"""Conditions that are a column where rows differ in them, and a word in the line below the table where they don't."""


def wide(records: Sequence[Record], entries: Mapping[str, Entry], baseline: str | None) -> pd.DataFrame:
    """A row per model, form, resolution, dtype and batch, for programs: whole units, one fact a column.

    A ratio is to `baseline`'s figure under the same conditions, in the same form or in the only one it has: of what was
    timed the measured one of paired rounds, with its interval; of anything else the quotient.
    """
    cells = _rows(records)
    shown = [metric for metric in COLUMNS if any(metric in row for row in cells.values())]
    rows = []
    for key, found in cells.items():
        model, form, resolution, dtype, batch = key
        row: dict[str, Any] = {"model": model, "form": form, "resolution": resolution}
        for condition in CONDITIONS[1:]:
            values = (v for m, r in found.items() if m != "latency" and (v := getattr(r, condition)) not in (None, ""))
            row[condition] = next(values, None)
        row["dtype"], row["batch"] = dtype or row["dtype"], batch if batch is not None else row["batch"]
        base = _baseline_row(cells, entries, baseline, key)
        for metric in shown:
            published = _published(entries[model], form, metric, resolution, found)
            row |= _cells(metric, found.get(metric), base.get(metric), found.get(f"{metric}_ratio"), published)
        top1 = distinct(figures(entries[model], "top1", resolution)) if _is_classifier(found) else []
        row["top1_published"] = top1[0].value if top1 else None
        row["top1_published_all"] = "/".join(f.text for f in top1)
        row["valid"] = all(r.valid for r in found.values())
        row["reasons"] = "; ".join(f"{r.metric}: {reason}" for r in found.values() for reason in r.reasons)
        rows.append(row)
    return pd.DataFrame(rows)


def _rows(records: Sequence[Record]) -> dict[Key, dict[str, Record]]:
    """The records of each row by metric: what knows no dtype or batch belongs to every row of its model and size.

    Of several records of one figure (an earlier run's, say) the last counts.
    """
    rows: dict[Key, dict[str, Record]] = {}
    for r in records:
        rows.setdefault((r.model, r.form, r.resolution, r.dtype, r.batch if _batched(r.metric) else None), {})
    full = [key for key in rows if not _is_part(key, rows)]
    cells: dict[Key, dict[str, Record]] = {key: {} for key in full}
    for r in records:
        for key in full:
            if (
                key[:3] == (r.model, r.form, r.resolution)
                and r.dtype in ("", key[3])
                and (not _batched(r.metric) or r.batch == key[4])
            ):
                cells[key][r.metric] = r
    return cells


def _batched(metric: str) -> bool:
    column = COLUMNS.get(metric.removesuffix("_ratio")) or COLUMNS.get(metric.partition("_")[0])
    return column is not None and column.batched


def _is_part(key: Key, rows: Iterable[Key]) -> bool:
    """Whether another row has the same conditions and more."""
    model, form, resolution, dtype, batch = key
    return any(
        other != key
        and other[:3] == (model, form, resolution)
        and (dtype in ("", other[3]))
        and (batch is None or batch == other[4])
        for other in rows
    )


def _is_classifier(found: Mapping[str, Record]) -> bool:
    return all(r.task == "classification" for r in found.values())


def _baseline_row(
    cells: Mapping[Key, dict[str, Record]], entries: Mapping[str, Entry], baseline: str | None, key: Key
) -> dict[str, Record]:
    if baseline is None:
        return {}
    _, form, *conditions = key
    (own, *_) = entries[baseline].forms(form)
    return cells.get((baseline, own, *conditions), {})  # type: ignore[arg-type]


def _published(entry: Entry, form: str, metric: str, resolution: str, found: Mapping[str, Record]) -> list[Any]:
    """Published cost is of the deploy form: none is beside another form's."""
    if not COLUMNS[metric].published or form != "deploy" or metric not in found:
        return []
    if _is_classifier(found):
        return distinct(figures(entry, metric, resolution))
    return distinct(dense_figures(entry, found[metric].head, metric, resolution))


def _cells(
    metric: str, record: Record | None, base: Record | None, paired: Record | None, published: list[Any]
) -> dict[str, Any]:
    value = record.value if record else None
    cells: dict[str, Any] = {metric: value, f"{metric}_status": _status(record)}
    if COLUMNS[metric].spread:
        cells |= {f"{metric}_lo": record.lo if record else None, f"{metric}_hi": record.hi if record else None}
    if COLUMNS[metric].published:
        cells[f"{metric}_published"] = published[0].value if published else None
        cells[f"{metric}_published_all"] = "/".join(figure.text for figure in published)
    if metric in WITHOUT_RATIO:
        return cells
    ratio = None
    comparable = record is not None and base is not None and record.valid and base.valid
    if comparable and record is not None and base is not None:
        if paired is not None and paired.valid:
            ratio = paired.value
        elif value is not None and base.value and (not COLUMNS[metric].spread or record is base):
            ratio = value / base.value  # of what was timed only the paired one counts
    cells[f"{metric}_ratio"] = ratio
    if COLUMNS[metric].spread:
        shown = paired is not None and ratio is not None
        cells |= {f"{metric}_ratio_{end}": getattr(paired, end) if shown else None for end in ("lo", "hi")}
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
        if f"{metric}_ratio" in frame and frame[f"{metric}_ratio"].notna().any():
            headings.append("ratio")
            columns.append([_ratio(row, metric) for _, row in frame.iterrows()])
    if (frame["top1_published_all"] != "").any():
        headings.append(TOP1)
        columns.append(list(frame["top1_published_all"]))
    return headings, [list(row) for row in zip(*columns, strict=True)]


def _ratio(row: pd.Series[Any], metric: str) -> str:
    value, lo, hi = (row.get(f"{metric}_ratio{end}") for end in ("", "_lo", "_hi"))
    if pd.isna(value):
        return ""
    if not pd.isna(hi) and math.isinf(hi):
        return f"{value:.2f} (one round)"
    return f"{value:.2f}" if pd.isna(lo) else f"{value:.2f} [{lo:.2f}, {hi:.2f}]"


def _text(value: Any) -> str:
    if pd.isna(value):
        return ""
    return str(int(value)) if isinstance(value, float) else str(value)


def _measured(row: pd.Series[Any], metric: str, column: Column) -> str:
    value, status = row[metric], row[f"{metric}_status"]
    if pd.isna(value):
        return str(status)
    text = f"{value / column.divisor:.{column.digits}f}"
    lo, hi = row.get(f"{metric}_lo"), row.get(f"{metric}_hi")
    if column.spread and not pd.isna(lo) and lo < hi:  # a single process tells no spread
        text += f" ±{(hi - lo) / 2 / value:.1%}"
    return f"{text} ({status})" if status else text


def shared_conditions(frame: pd.DataFrame) -> str:
    """The conditions that all rows share, in words."""
    words = {
        "form": "{} form",
        "batch": "batch {}",
        "threads": "CPU threads {}",
        "backend": "ContMix {}",
        "compile": "compile {}",
    }
    parts = []
    for condition in CONDITIONS:
        values = frame[condition].dropna().unique()
        if len(values) == 1 and values[0] != "none":
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


MEANINGS = {
    "throughput": "images/s: median of fresh processes, ± half the 95 % interval.",
    "latency": "latency: one image, each call waited for; median, then 90th and 99th percentile.",
    "training": "training: forward, loss with the auxiliary head, backward, AdamW.",
    "cold_start": "first call: of a process, the model loaded.",
    "memory": "memory: peak of a call above the loaded model.",
    "largest_batch": "largest batch: whose call fits the memory that is free, or the budget given.",
    "macs": "MACs: multiply-adds of convolutions, linear layers, matrix products and ContMix, for one image.",
    "energy": "J/image: NVML's counter, idle power included.",
}


def below(
    frame: pd.DataFrame,
    records: Sequence[Record],
    machine: str,
    baseline: str,
    sources: bool,
    entries: Mapping[str, Entry],
) -> list[str]:
    """Lines that belong under the table: machine and conditions, what ratios refer to, notes, failures, sources."""
    lines = [f"Measured on {'; '.join(filter(None, (machine, shared_conditions(frame))))}."]
    columns = list(map(str, frame))
    if any(frame[c].notna().any() for c in columns if c.endswith("_ratio")):
        paired = any(frame[c].notna().any() for c in columns if c.endswith("_ratio_lo"))
        how = "; in brackets the 95 % interval over rounds in which the sides took turns" if paired else ""
        lines.append(f"ratio: to {baseline} under the same conditions{how}.")
    lines += [text for metric, text in MEANINGS.items() if metric in frame]
    if any(r.task == "detection" for r in records):
        lines.append(FIXED_PATH)
    if any((frame[c] != "").any() for c in columns if c.endswith("_published_all")):
        where = "below" if sources else "by --sources"
        lines.append(f"(pub.): published by others, not measured here; the sources are listed {where}.")
    return lines + _doubts(records) + (_sources(frame, entries, records) if sources else [])


def _doubts(records: Sequence[Record]) -> list[str]:
    """Reasons and notes, each once, with the figures that they are of."""
    found: dict[tuple[str, ...], list[str]] = {}
    for r in records:
        conditions = [r.dtype, f"batch {r.batch}"] if r.batch is not None else []
        who = " ".join([r.model, r.resolution, r.form, *conditions])
        notes = () if r.metric in ("params", "macs", "activations") else r.notes
        for text in (*r.reasons, *notes):
            found.setdefault((who, text), []).append(r.metric)
    return [f"{who} {', '.join(metrics)}: {text}" for (who, text), metrics in found.items()]


def _sources(frame: pd.DataFrame, entries: Mapping[str, Entry], records: Sequence[Record]) -> list[str]:
    head = next((r.head for r in records if r.head), "")
    lines = ["Published figures:"]
    for metric in (*(m for m in COLUMNS if m in frame and COLUMNS[m].published), "top1"):
        for model, resolution in frame[["model", "resolution"]].drop_duplicates().itertuples(index=False):
            entry = entries[model]
            found = dense_figures(entry, head, metric, resolution) if head else figures(entry, metric, resolution)
            for f in found:
                at = f" at {f.resolution}" if f.resolution else ""
                figure = f"{f.model}{at}: {f.metric} {f.text} {f.unit}"
                lines.append(f"  {figure} ({f.protocol}). {f.source}, {f.confidence}")
    return list(dict.fromkeys(lines))


def comment(lines: Sequence[str], style: str) -> list[str]:
    """Lines below a table in its format: comments in LaTeX, a paragraph each in Markdown."""
    if style == "latex":
        return [f"% {line}" for line in lines]
    return [text for line in lines for text in (line, "")][:-1] if style == "markdown" else list(lines)
