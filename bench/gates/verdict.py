"""Verdicts of the gates, the table that shows them, and the exit code that follows from them. Imports no torch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bench import cli
from bench.render import as_csv, table

OK, DIFFERS, REGRESSION, UNDECIDED, INVALID = "OK", "DIFFERS", "REGRESSION", "UNDECIDED", "INVALID"
"""As it should be; not what is expected (exact figures); worse beyond the margin; not enough measured to tell; not
comparable or not measurable."""

STYLES = ("table", "markdown", "csv", "json")
_CODES = ((DIFFERS, cli.REGRESSION), (REGRESSION, cli.REGRESSION), (INVALID, cli.BAD_INPUT), (UNDECIDED, cli.UNDECIDED))


@dataclass(frozen=True)
class Judgement:
    """One figure judged: of what, the verdict, the figures that it rests on, as text by heading, and what to say."""

    subject: str  # model, form and conditions
    metric: str
    verdict: str
    cells: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""


def exit_code(judgements: Sequence[Judgement]) -> int:
    """1 if anything differs or regressed, else 2 if anything is invalid or nothing was judged, else 3 if undecided."""
    if not judgements:
        return cli.BAD_INPUT
    verdicts = {judgement.verdict for judgement in judgements}
    return next((code for verdict, code in _CODES if verdict in verdicts), cli.OK)


def summary(title: str, judgements: Sequence[Judgement]) -> str:
    """One line: `Exact gate: 1 DIFFERS, 610 OK`."""
    counts = Counter(judgement.verdict for judgement in judgements)
    parts = [
        f"{counts[verdict]} {verdict}" for verdict in (DIFFERS, REGRESSION, INVALID, UNDECIDED, OK) if counts[verdict]
    ]
    return f"{title}: {', '.join(parts) or 'nothing was judged'}"


def render(title: str, judgements: Sequence[Judgement], style: str, all_rows: bool) -> str:
    """The verdicts as text: summary and table (plain or Markdown), csv or json.

    Tables leave out what is OK, unless all rows are asked for.
    """
    headings = list(dict.fromkeys(heading for judgement in judgements for heading in judgement.cells))
    columns = ["verdict", "what", "metric", *headings, "reason"]
    if style in ("csv", "json"):
        rows = [dict(zip(columns, _row(judgement, headings), strict=True)) for judgement in judgements]
        return as_csv(rows) if style == "csv" else json.dumps({"gate": title, "rows": rows}, indent=2)
    shown = [_row(j, headings) for j in judgements if all_rows or j.verdict != OK]
    kept = [i for i in range(len(columns)) if i == 0 or any(row[i] for row in shown)]
    line = summary(title, judgements)
    if not shown:
        return f"**{line}**" if style == "markdown" else line
    text = table([columns[i] for i in kept], [[row[i] for i in kept] for row in shown], style)
    return f"**{line}**\n\n{text}" if style == "markdown" else f"{text}\n\n{line}"


def _row(judgement: Judgement, headings: Sequence[str]) -> list[str]:
    cells = [judgement.cells.get(heading, "") for heading in headings]
    return [judgement.verdict, judgement.subject, judgement.metric, *cells, " ".join(judgement.reason.split())]
