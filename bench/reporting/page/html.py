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
from bench.reporting.charts import charts
from bench.reporting.charts.draw import newest, svg
from bench.reporting.charts.spec import PAGE, Chart, themed
from bench.reporting.data import Report
from bench.reporting.page.table import tables
from bench.reporting.summary import lines

HERE = Path(__file__).parent
SECTIONS = {"accuracy": "Accuracy and cost", "sweeps": "Resolutions", "roofline": "Roofline"}
"""The charts before the appendix."""
FURTHER = {
    "accuracy": "Accuracy and further costs",
    "sweeps": "Resolutions, further figures",
    "roofline": "Roofline, further machines",
    "breakdown": "Where time, MACs and parameters are",
    "history": "Over time",
}


def page(report: Report) -> str:
    """The page's text."""
    import jinja2
    import vl_convert

    sections = charts(report)
    grids = tables(report.rows)
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True)
    every = [chart for of_section in sections.values() for chart in of_section]
    drawn = {chart.name: _svg(chart) for chart in every}
    bundle: Any = vl_convert.javascript_bundle  # its stub asks for a snippet, which is optional
    library = bundle(vl_version=newest()) if drawn else ""
    specs = {chart.name: themed(chart.spec, PAGE) for chart in every}
    return environment.get_template("page.html.j2").render(
        report=report,
        table=grids[0] if grids else None,
        tables=grids[1:],
        lines=lines(report),
        where="; ".join(f"{key}: {words}" for key, words in report.machines.items()),
        sections=_titled(sections, SECTIONS, further=False),
        appendix=_titled(sections, FURTHER, further=True),
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
    )


def _titled(
    sections: Mapping[str, Sequence[Chart]], titles: Mapping[str, str], further: bool
) -> list[tuple[str, str, list[Chart]]]:
    """Each section's charts that stand in the appendix, or before it, with the section's title."""
    shown = {name: [chart for chart in made if chart.further == further] for name, made in sections.items()}
    return [(name, titles[name], some) for name, some in shown.items() if some]


def _inside_script(text: str) -> str:
    """Text that can stand in a <script>: nothing in it ends the element."""
    return re.sub(r"</(?=script)|<!--", lambda m: m[0].replace("<", "\\x3c"), text, flags=re.IGNORECASE)


def _svg(chart: Chart) -> str:
    """The chart as SVG that scales to its place."""
    return svg(chart.spec, PAGE).replace("<svg ", f'<svg role="img" aria-label="{escape(chart.caption)}" ', 1)


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
        "measured": " on ".join(filter(None, (show.measured(finding), finding.machine))),
        "difference": show.difference(finding),
        "what_would": show.what_would(finding).capitalize(),
        "folded": not measured,
        "open": measured and finding.statement.in_words,
        "kind": finding.verdict.value.lower().replace(" ", "-"),
    }
