"""The table of models: what `bench.compare` prints, and what the README and reports show. Imports no torch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from bench.metrics import METRICS
from bench.published import distinct
from bench.records.record import OUT_OF_MEMORY, Record
from bench.render import table
from bench.reporting.rows import SHOWN, Row

WORDS = {
    "resolution": "at {}",
    "head": "{}",
    "variant": "{}",
    "form": "{} form",
    "device": "{}",
    "dtype": "{}",
    "batch": "batch {}",
    "layout": "{}",
    "compile": "compile {}",
    "threads": "CPU threads {}",
    "backend": "ContMix {}",
}
"""Conditions that are a column where rows differ in them, and words below the table where they don't."""

DIRTY = "†"
"""Marks a figure of a tree with uncommitted changes, in reports."""

PUBLISHED, TOP1_PUBLISHED = "published", "top-1 % (published)"
PAPER_NOTE = "Figures headed published are others'; a ratio has the 95 % interval of paired rounds in brackets."


def status(record: Record) -> str:
    """Empty for a good figure, else what stands in its place or marks it."""
    if record.valid:
        return ""
    if record.out_of_memory:
        return OUT_OF_MEMORY
    return "failed" if record.value is None else "invalid"


def cell(row: Row, metric: str, against: str = "") -> str:
    """A figure with its spread; what stands in its place where it failed; empty where it was not measured.

    A ratio names the model that it refers to, unless that is `against`, which the heading names.
    """
    record, of = row.record(metric), METRICS[metric]
    if record is None:
        return ""
    if record.value is None:
        return status(record)
    text = f"{record.value / of.divisor:,.{of.digits}f}"
    if record.lo is not None and record.hi is not None:
        if record.against:
            to = "" if record.against == against else f" to {record.against}"
            text += f" (one round){to}" if math.isinf(record.hi) else f" [{record.lo:.2f}, {record.hi:.2f}]{to}"
        elif of.spread and record.value and record.lo < record.hi:  # a single process has no spread
            text += f" ±{(record.hi - record.lo) / 2 / record.value:.1%}"
    if not record.valid:
        return f"{text} (invalid)"
    return text if record.noise is None else f"{text} (noisy)"


def heading(metric: str, against: str = "") -> str:
    """A metric's heading with its unit, or with what a ratio is to."""
    of = METRICS[metric]
    return f"{of.heading} to {against.partition(' ')[0]}" if against else of.title


def common_base(rows: Sequence[Row], metric: str) -> str:
    """What most of the rows' ratios refer to, as `<model> <form>`; empty where there is no such thing."""
    bases = Counter(row.cells[metric].record.against for row in rows if metric in row.cells)
    base, count = bases.most_common(1)[0] if bases else ("", 0)
    return base if 2 * count > bases.total() else ""


def columns(rows: Sequence[Row]) -> list[str]:
    """The metrics that any of the rows has."""
    return [metric for metric in SHOWN if any(metric in row.cells for row in rows)]


def comparison(rows: Sequence[Row], style: str = "markdown", mark: bool = False, caption: str = "") -> str:
    """Rows as a table, with published figures beside ours where there are any; `mark` those of a dirty tree.

    In LaTeX it has a caption, and may be broken anywhere: a heading of published figures says what they are.
    """
    headings, cells, words = grid(rows, mark)
    if style == "latex":
        headings = [f"{headings[i - 1]} {text}" if text == PUBLISHED else text for i, text in enumerate(headings)]
        sources = [text.replace("published", "Published", 1) for text in contradictions(rows)]
        caption = " ".join(filter(None, (caption, PAPER_NOTE, *sources)))
    return table(headings, cells, style, words, caption)


def contradictions(rows: Sequence[Row]) -> list[str]:
    """Where published figures contradict each other ("28/29"): both, with their sources."""
    lines = []
    for row in rows:
        for metric in dict.fromkeys((*columns(rows), "top1")):
            figures = distinct(row.beside(metric))
            if len(figures) > 1:
                texts = "/".join(figure.text for figure in figures)
                who = "; ".join(f"{f.text} {f.unit} by {f.source} ({f.protocol})" for f in figures)
                lines.append(f"published {texts}, {METRICS[metric].published_as} of {row.model}: {who}.")
    return list(dict.fromkeys(lines))


def grid(rows: Sequence[Row], mark: bool = False) -> tuple[list[str], list[list[str]], int]:
    """Headings and cells of the table of rows, and how many of its columns are words."""
    conditions = varying(rows)
    made = [("model", [row.model for row in rows])]
    for name in conditions:
        made.append(("size" if name == "resolution" else name, [str(getattr(row, name) or "") for row in rows]))
    for metric in columns(rows):
        against = common_base(rows, metric)
        made.append((heading(metric, against), [marked(row, metric, against, mark) for row in rows]))
        if metric != "top1":
            made.append((PUBLISHED, ["/".join(row.published(metric)) for row in rows]))
    made.append((TOP1_PUBLISHED, ["/".join(row.published("top1")) for row in rows]))
    made = [(name, cells) for name, cells in made if name not in (PUBLISHED, TOP1_PUBLISHED) or any(cells)]
    headings, cells = zip(*made, strict=True)
    return list(headings), [list(line) for line in zip(*cells, strict=True)], 1 + len(conditions)


def marked(row: Row, metric: str, against: str, mark: bool) -> str:
    """A cell, with `DIRTY` behind a figure of a dirty tree where `mark` asks for it."""
    text = cell(row, metric, against)
    return f"{text} {DIRTY}" if mark and text and row.cells[metric].record.dirty else text


def varying(rows: Sequence[Row]) -> list[str]:
    """The conditions in which rows differ; ContMix's backend where models that have ContMix do."""
    values = {name: {getattr(row, name) for row in rows} for name in WORDS}
    values["backend"].discard("")
    return [name for name, different in values.items() if len(different) > 1]


def shared(rows: Sequence[Row]) -> str:
    """The conditions that all rows share, in words."""
    differ, parts = varying(rows), []
    for name, words in WORDS.items():
        values = {getattr(row, name) for row in rows} - {"", "none", None}
        if len(values) == 1 and name not in differ:
            parts.append(words.format(*values))
    return ", ".join(parts)
