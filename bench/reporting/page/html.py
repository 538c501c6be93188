"""The report as one HTML file that needs nothing else: table, charts, claims, machines; readable without scripts.

Charts are drawn once here, as SVG that stands in the page, and drawn again by Vega in the browser, which ships inside
the file, so that they answer to hovering and to the choice of published or measured top-1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from bench.evidence import show
from bench.evidence.finding import FOLDED, Finding
from bench.evidence.rule import RULE
from bench.metrics import METRICS
from bench.reporting.charts import charts
from bench.reporting.charts.draw import newest, svg
from bench.reporting.charts.spec import PAGE, Chart, themed
from bench.reporting.data import Report
from bench.reporting.rows import Row
from bench.reporting.tables import cell, columns, common_base, heading

HERE = Path(__file__).parent
SECTIONS = {
    "accuracy": "Accuracy and cost",
    "sweeps": "Resolutions",
    "roofline": "Roofline",
    "breakdown": "Where time, MACs and parameters are",
    "history": "History",
}


def page(report: Report) -> str:
    """The page's text."""
    import jinja2
    import vl_convert

    sections = charts(report)
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True)
    drawn = {chart.name: _svg(chart) for found in sections.values() for chart in found}
    bundle: Any = vl_convert.javascript_bundle  # its stub asks for a snippet, which is optional
    library = bundle(vl_version=newest()) if drawn else ""
    specs = {chart.name: themed(chart.spec, PAGE) for found in sections.values() for chart in found}
    return environment.get_template("page.html.j2").render(
        report=report,
        table=table(report.rows),
        sections=[(name, SECTIONS[name], found) for name, found in sections.items()],
        drawn=drawn,
        has_measured_top1=any("top1" in row.cells for row in report.rows),
        claims=_claims(report.findings),
        rule=RULE,
        dirty=show.DIRTY_MEANS if any(f.dirty for f in report.findings) else "",
        summary=show.summary(report.findings),
        style=(HERE / "page.css").read_text(encoding="utf-8"),
        script=(HERE / "page.js").read_text(encoding="utf-8"),
        library=_inside_script(library),
        specs=_inside_script(json.dumps(specs)),
        section_titles=SECTIONS,
    )


def _inside_script(text: str) -> str:
    """Text that can stand in a <script>: nothing in it ends the element."""
    return re.sub(r"</(?=script)|<!--", lambda m: m[0].replace("<", "\\x3c"), text, flags=re.IGNORECASE)


def _svg(chart: Chart) -> str:
    """The chart as SVG that scales to its place."""
    return svg(chart.spec, PAGE).replace("<svg ", f'<svg role="img" aria-label="{escape(chart.caption)}" ', 1)


def table(rows: Sequence[Row]) -> dict[str, Any]:
    """The main table: headings with their kind, and rows of (text, value to sort by, mark)."""
    shown = columns(rows)
    words = ("model", "family", "form", "resolution", "device", "dtype", "batch")
    headings: list[tuple[str, bool]] = [(word, word in ("batch", "resolution")) for word in words]
    for metric in shown:
        headings.append((heading(metric, common_base(rows, metric)), True))
        if metric in ("params", "macs"):
            headings.append((f"{METRICS[metric].heading} published", True))
    headings += [("top-1 % published", True), ("compile", False), ("threads", True), ("ContMix", False)]
    headings += [("task", False), ("machine", False)]
    bases = {metric: common_base(rows, metric) for metric in shown}
    places = {text: i for i, (text, _) in enumerate(headings)}
    return {"headings": headings, "rows": [_table_row(row, shown, bases) for row in rows], "places": places}


def _table_row(row: Row, shown: Sequence[str], bases: Mapping[str, str]) -> dict[str, Any]:
    task = f"{row.task}, {row.head}" if row.head else row.task
    words = [row.model, row.family, row.form]
    cells: list[tuple[str, Any, str]] = [(word, word, "") for word in words]
    cells.append((row.resolution, row.pixels, ""))
    cells += [(row.device if row.measured else "counted", row.device, ""), (row.dtype, row.dtype, "")]
    cells.append((str(row.batch or ""), row.batch or "", ""))
    for metric in shown:
        value = row.value(metric)
        placed = row.cells.get(metric)
        bad = placed is not None and not placed.record.valid
        cells.append((cell(row, metric, bases[metric]), "" if value is None else value, "invalid" if bad else ""))
        if metric in ("params", "macs"):
            cells.append(_published(row.published(metric)))
    cells += [_published(row.published("top1")), (row.compile, row.compile, "")]
    cells += [(str(row.threads or ""), row.threads or "", ""), (row.backend, row.backend, "")]
    cells += [(task, task, ""), (row.machine, row.machine, "")]
    reasons = [reason for placed in row.cells.values() for reason in placed.record.reasons]
    return {"cells": cells, "reasons": "; ".join(reasons)}


def _published(texts: Sequence[str]) -> tuple[str, Any, str]:
    return "/".join(texts), float(texts[0]) if texts else "", "published"


def _claims(findings: Sequence[Finding]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Statements in words, questions and figures, each part with its title."""
    titles = ("What authors say in words", "Questions that no author answered", "Published figures")
    parts = zip(titles, show.parted(findings), strict=True)
    return [(title, [claim(f) for f in part]) for title, part in parts if part]


def claim(finding: Finding) -> dict[str, Any]:
    """A finding for the page: its row, and its figures as text."""
    measured = finding.verdict not in FOLDED
    return {
        **show.row(finding),
        "measured": show.measured(finding),
        "difference": show.difference(finding),
        "folded": not measured,
        "open": measured and finding.statement.in_words,
        "kind": finding.verdict.value.lower().replace(" ", "-"),
    }
