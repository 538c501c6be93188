"""Figures over time, where several runs measured them."""

from __future__ import annotations

from typing import Any

from bench.metrics import METRICS
from bench.reporting.charts.spec import Chart, Spec, quantity
from bench.reporting.data import Report, histories


def charts(report: Report) -> list[Chart]:
    """A chart for each machine and metric."""
    points: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for key, series in histories(report).items():
        machine, metric = key[0], key[1]
        for item in series:
            point = {
                "series": " ".join(part for part in (*key[2:5], *key[6:9]) if part not in ("", "None")),
                "time": item.record.time,
                "commit": item.record.commit[:9],
                "value": item.value / METRICS[metric].divisor,
            }
            points.setdefault((machine, metric), []).append(point)
    return [_chart(values, machine, metric) for (machine, metric), values in points.items()]


def _chart(points: list[dict[str, Any]], machine: str, metric: str) -> Chart:
    spec: Spec = {
        "data": {"values": points},
        "mark": {"type": "line", "point": True},
        "encoding": {
            "x": {"field": "time", "type": "temporal", "title": "measured (UTC)"},
            "y": {"field": "value", "type": "quantitative", "title": quantity(metric), "scale": {"zero": False}},
            "color": {"field": "series", "type": "nominal", "title": None, "legend": {"columns": 1}},
            "tooltip": [{"field": name} for name in ("series", "time", "commit", "value")],
        },
    }
    caption = f"{quantity(metric)} of {machine} over its runs; only equal conditions are joined."
    return Chart(f"history-{metric}-{machine}", f"{METRICS[metric].heading} over time", caption, spec)
