"""Shares of time, MACs, parameters and activations by kind of operator and by stage."""

from __future__ import annotations

from bench.reporting.breakdowns import QUANTITIES, Breakdown, breakdowns
from bench.reporting.charts.spec import Chart, Spec
from bench.reporting.data import Report


def charts(report: Report) -> list[Chart]:
    """A chart for each breakdown that is recorded."""
    return [_chart(b) for b in breakdowns(report.evidence.all)]


def _chart(b: Breakdown) -> Chart:
    points = [
        {"by": by, "part": part, "of": of, "share": value / total, "value": value, "place": place}
        for (by, of), parts in b.parts.items()
        for place, (part, value) in enumerate(parts.items())
        if (total := sum(parts.values()))
    ]
    spec = {
        "data": {"values": points},
        "vconcat": [_panel(b, by) for by in ("operator", "stage")],
        "resolve": {"scale": {"color": "independent"}},
    }
    caption = f"{b.model}, {b.form} form, {b.resolution}, {b.under}: where time, MACs, parameters and activations are."
    return Chart(f"breakdown-{b.model}-{b.form}-{b.resolution}-{b.machine}", f"Breakdown of {b.model}", caption, spec)


def _panel(b: Breakdown, by: str) -> Spec:
    parts = list(dict.fromkeys(part for of in QUANTITIES for part in b.parts.get((by, of), {})))
    colours = {"domain": parts, "scheme": "tableau10" if len(parts) <= 10 else "tableau20"}
    return {
        "title": f"{b.model}, by {by}",
        "transform": [{"filter": f"datum.by == '{by}'"}],
        "mark": "bar",
        "encoding": {
            "y": {"field": "of", "type": "nominal", "title": None, "sort": list(QUANTITIES)},
            "x": {
                "field": "share",
                "type": "quantitative",
                "axis": {"format": "%"},
                "scale": {"domain": [0, 1]},
                "title": "share",
            },
            "color": {"field": "part", "type": "nominal", "title": None, "scale": colours},
            "order": {"field": "place", "type": "quantitative"},
            "tooltip": [{"field": "part"}, {"field": "of"}, {"field": "share", "format": ".1%"}],
        },
    }
