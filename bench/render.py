"""Tables as text, in every format that commands print. Importing this imports no torch and no pandas."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

STYLES = {"table": "simple", "markdown": "github", "latex": "latex_booktabs"}


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], style: str, words: int | None = None) -> str:
    """A table in one of `STYLES`; its first `words` columns are aligned left (None: all), the others right.

    Text for a terminal breaks a heading at its first space, since the columns are narrow.
    """
    from tabulate import tabulate

    words = len(headings) if words is None else words
    align = ["left"] * words + ["right"] * (len(headings) - words)
    if style == "table":
        headings = [*headings[:words], *(heading.replace(" ", "\n", 1) for heading in headings[words:])]
    return tabulate(rows, headings, tablefmt=STYLES[style], colalign=align if rows else None, disable_numparse=True)


def below(lines: Sequence[str], style: str) -> str:
    """Lines below a table: comments in LaTeX, paragraphs in Markdown."""
    if style == "latex":
        return "\n".join(f"% {line}" for line in lines)
    return ("\n\n" if style == "markdown" else "\n").join(lines)


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows for programs. The first one has all columns; what is None stays empty."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().rstrip("\n")
