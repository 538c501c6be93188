"""The report's charts as Vega-Lite specifications: data, which the page and the figures draw. Imports no torch."""

from __future__ import annotations

from bench.reporting.charts import accuracy, breakdown, history, resolutions, roofline
from bench.reporting.charts.spec import Chart
from bench.reporting.data import Report


def charts(report: Report) -> dict[str, list[Chart]]:
    """The page's charts by section; sections without data are left out."""
    sections = {
        "accuracy": accuracy.charts(report),
        "sweeps": resolutions.charts(report),
        "roofline": roofline.charts(report),
        "breakdown": breakdown.charts(report),
        "history": history.charts(report),
    }
    return {name: made for name, made in sections.items() if made}
