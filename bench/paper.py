"""Tables for LaTeX that fit a page: floats with booktabs' rules and nothing else, with names as papers write them."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterator, Sequence

from bench.models import MODELS
from bench.names import label

LINE = 78  # characters of \footnotesize that a line of the article class holds
BETWEEN = 2  # characters that the space between two columns takes
LINES = 44  # of a page
HEADING = 11  # characters of a line of a heading, where the figures below it are no wider

_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "±": r"$\pm$", "×": r"$\times$", "†": r"\dag{}", "≤": r"$\leq$", "≥": r"$\geq$", "−": r"$-$", "…": r"\dots{}",
}  # fmt: skip
_MINUS = re.compile(r"(?<![\w$-])-(?=[\d.])")
_NAMES = re.compile(rf"\b(?:{'|'.join(sorted(MODELS, key=len, reverse=True))})\b")


def escaped(text: str) -> str:
    """Text as LaTeX prints it, with a minus before numbers; what its usual fonts lack is a question mark."""
    return "".join(_SPECIAL.get(c, c if ord(c) < 0x180 else "?") for c in _MINUS.sub("−", text))


def named(text: str) -> str:
    """Text with the models' names as papers write them."""
    return _NAMES.sub(lambda match: label(match[0]), text)


def of_figures(headings: Sequence[str], rows: Sequence[Sequence[str]], words: int, caption: str) -> str:
    """Figures as floats, side by side as many columns as fit. The first column stands in each of them, and all of the
    words where it does not tell the rows apart."""
    headings, rows = [named(text) for text in headings], [[named(text) for text in row] for row in rows]
    stacked = [_stacked(text, [row[i] for row in rows]) for i, text in enumerate(headings)]
    widths = [
        max([len(line) for line in lines] + [len(row[i]) for row in rows]) + BETWEEN for i, lines in enumerate(stacked)
    ]
    distinct = words == len(headings) or len({row[0] for row in rows}) == len(rows)
    fixed = [*range(1 if distinct else words)]
    blocks: list[list[int]] = [[]]
    for i in range(len(fixed), len(headings)):
        if blocks[-1] and sum(widths[k] for k in (*fixed, *blocks[-1], i)) > LINE:
            blocks.append([])
        blocks[-1].append(i)
    made: list[str] = []
    for block in blocks:
        chosen = [*fixed, *block]
        for part in range(0, max(len(rows), 1), LINES - 4):
            columns = "".join("l" if i < words else "r" for i in chosen)
            head = " & ".join(r"\shortstack{" + r" \\ ".join(map(escaped, stacked[i])) + "}" for i in chosen)
            lines = [" & ".join(escaped(row[i]) for i in chosen) for row in rows[part : part + LINES - 4]]
            made.append(_float(columns, head, lines, caption, bool(made)))
    return "\n\n".join(made)


def of_words(headings: Sequence[str], rows: Sequence[Sequence[str]], shares: Sequence[float], caption: str) -> str:
    """Words as floats, in columns that take these shares of a line and break their text."""
    columns = "".join(rf"p{{{share:.2f}\linewidth}}" for share in shares)
    head = " & ".join(map(escaped, headings))
    made: list[str] = []
    for part in _pages(rows, shares):
        lines = [" & ".join(rf"\raggedright {escaped(text)}" for text in row) for row in part]
        made.append(_float(columns, head, lines, caption, bool(made), end=r" \tabularnewline"))
    return "\n\n".join(made)


def _pages(rows: Sequence[Sequence[str]], shares: Sequence[float]) -> Iterator[list[Sequence[str]]]:
    """Rows by the page, as far as the lengths of their texts tell."""
    page: list[Sequence[str]] = []
    used = 0
    for row in rows:
        lines = max(math.ceil((len(text) + 1) / (0.85 * share * LINE)) for text, share in zip(row, shares, strict=True))
        if page and used + lines > LINES:
            yield page
            page, used = [], 0
        page.append(row)
        used += lines
    if page:
        yield page


def _stacked(text: str, cells: Sequence[str]) -> list[str]:
    return textwrap.wrap(text, max([HEADING, *map(len, cells)]), break_long_words=False) or [""]


def _float(columns: str, head: str, rows: Sequence[str], caption: str, more: bool, end: str = r" \\") -> str:
    text = escaped(named(caption)) + (" (continued)" if more else "")
    return "\n".join(
        [
            r"\begin{table}[htbp]",
            r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
            *([rf"\caption{{{text}}}"] if caption else []),
            rf"\begin{{tabular}}{{@{{}}{columns}@{{}}}}",
            r"\toprule",
            head + r" \\",
            r"\midrule",
            *(row + end for row in rows),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )
