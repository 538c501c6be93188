"""Tables as text, in every format that commands print. Importing this imports no torch and no pandas."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

STYLES = {"table": "simple", "markdown": "github"}


def table(
    headings: Sequence[str],
    rows: Sequence[Sequence[object]],
    style: str,
    words: int | None = None,
    caption: str = "",
) -> str:
    """A table in one of `STYLES`, or in LaTeX as floats that fit a page, under `caption`.

    Its first `words` columns are aligned left (None: all), the others right. For a terminal the headings of the others
    are broken at their first space, since these columns are narrow.
    """
    words = len(headings) if words is None else words
    if style == "latex":
        from bench import paper

        return paper.of_figures(headings, [[str(cell) for cell in row] for row in rows], words, caption)
    from tabulate import tabulate

    align = ["left"] * words + ["right"] * (len(headings) - words)
    if style == "table":
        headings = [*headings[:words], *(heading.replace(" ", "\n", 1) for heading in headings[words:])]
    if style == "markdown":  # in which a bar begins a new cell, wherever it stands
        headings, *rows = [[str(cell).replace("|", "\\|") for cell in row] for row in (headings, *rows)]
    return tabulate(rows, headings, tablefmt=STYLES[style], colalign=align if rows else None, disable_numparse=True)


def by_heading(rows: Sequence[Mapping[str, Any]], style: str, words: int | None = None, digits: int = 2) -> str:
    """Rows, each a cell by heading, as a table or as CSV. In a table, fractions have `digits` after the point."""
    if style == "csv":
        return as_csv(rows)
    headings = _headings(rows)
    return table(headings, [[_text(row.get(name), digits) for name in headings] for row in rows], style, words)


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows for programs, each a value by heading; what is None, or lacking, stays empty."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, _headings(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().rstrip("\n")


def below(lines: Sequence[str], style: str) -> str:
    """Lines below a table: comments in LaTeX, paragraphs in Markdown."""
    if style == "latex":
        return "\n".join(f"% {line}" for line in lines)
    return ("\n\n" if style == "markdown" else "\n").join(lines)


def _headings(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _text(value: object, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}" if isinstance(value, float) else str(value)
