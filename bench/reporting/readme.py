"""The parts of the README that are generated, between markers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.cli import BadInput
from bench.files import read_text
from bench.reporting.data import Report
from bench.reporting.footnotes import dirty, doubts
from bench.reporting.rows import Row, main_rows
from bench.reporting.tables import comparison, contradictions, shared

TABLE, FIGURE = "table", "figure"
FIGURE_FILE = "results/figure.svg"
ALT = "Published top-1 accuracy against multiply-adds and measured throughput"
HEADLINE: tuple[str, ...] = (
    *("overlock_xt", "overlock_t", "overlock_s", "overlock_b"),
    *("unireplknet_t", "moganet_s", "moganet_b", "convnext_t", "convnext_b"),
)
"""The models of the README's table, in its order; its ratios are to the last one, as in `bench.compare`."""


def replaced(text: str, parts: Mapping[str, str]) -> str:
    """`text` with what stands between the markers of each part replaced; parts without markers are left out.

    Raises:
        BadInput: if a marker is not closed.
    """
    for name, content in parts.items():
        opening, closing = f"<!-- bench.report:{name} -->", f"<!-- /bench.report:{name} -->"
        before, opened, rest = text.partition(opening)
        _, closed, after = rest.partition(closing)
        if opened and not closed:
            raise BadInput(
                f"README.md: {opening} is never closed by {closing}: add that line, or take the first one out"
            )
        if opened:
            text = f"{before}{opening}\n\n{content.strip()}\n\n{closing}{after}"
    return text


def parts(report: Report) -> dict[str, str]:
    """The generated parts: the headline table and the figure; without any measured row they say so."""
    rows = headline(report)
    if not rows:
        return {TABLE: "No records yet: `python -m bench.compare --models ... --save` makes some.", FIGURE: ""}
    machine = report.machines.get(rows[0].machine, rows[0].machine)
    absent = ", ".join(model for model in HEADLINE if model not in {row.model for row in rows})
    under = [f"Measured on {machine}; {shared(rows)}. Published figures are marked as such."]
    under += [f"Repeat it with `python -m bench.compare --models {' '.join(row.model for row in rows)} --save`."]
    under += [f"Not measured under these conditions: {absent}."] if absent else []
    under += [*doubts(rows), *contradictions(rows), *dirty(rows)]
    notes = "\n".join(f"- {line}" for line in under[1:])
    return {
        TABLE: f"{comparison(rows, mark=True)}\n\n{under[0]}\n\n{notes}",
        FIGURE: f"![{ALT}]({FIGURE_FILE})\n\n{caption(report)}",
    }


def headline(report: Report) -> list[Row]:
    """Rows of the headline models at 224 under the conditions that have most of them; of as many, the newest."""
    return max(headlines(report), key=weight, default=[])


def elsewhere(report: Report, machine: str) -> bool:
    """Whether the headline rows are another machine's: pictures of this one stand in the appendix."""
    rows = headline(report)
    return bool(rows) and rows[0].machine != machine


def headlines(report: Report) -> list[list[Row]]:
    """For each machine and device rows of the headline models at 224, under the conditions that have most of them."""
    groups: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in main_rows(report.rows):
        usual = row.task == "classification" and row.form == "deploy" and row.resolution == "224"
        if usual and row.model in HEADLINE and "throughput" in row.cells and row.compile in ("", "none"):
            groups.setdefault(row.under_the(("machine", "device", "dtype", "threads", "batch")), {})[row.model] = row
    made = [[rows[model] for model in HEADLINE if model in rows] for rows in groups.values()]
    places = sorted({(rows[0].machine, rows[0].device) for rows in made})
    return [max((r for r in made if (r[0].machine, r[0].device) == place), key=weight) for place in places]


def caption(report: Report) -> str:
    """What the figure shows."""
    where = ", ".join(dict.fromkeys(rows[0].machine for rows in headlines(report)))
    return (
        "Top-1 is as published by the authors, not measured here. MACs are counted; throughput was measured on "
        f"{where}. A line joins the sizes of a family; the dashed line is the Pareto front, which no model shown beats "
        "in both accuracy and cost."
    )


def weight(rows: Sequence[Row]) -> tuple[int, str]:
    """By what a machine's headline rows go before another's: their number, then their time."""
    return len(rows), max(map(_time, rows))


def _time(row: Row) -> str:
    return max(placed.record.time for placed in row.measured)


def update(path: Path, report: Report) -> str:
    """The README's text with its generated parts as they should be.

    Raises:
        BadInput: if it is no text, or a marker is not closed.
    """
    return replaced(read_text(path, "give --readme a Markdown file in UTF-8"), parts(report))
