"""Top-1 against what it costs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from bench.metrics import HIGH, METRICS
from bench.models import MODELS
from bench.reporting.charts.spec import LABELS, Chart, Spec, described, look, quantity
from bench.reporting.data import Report
from bench.reporting.readme import headline
from bench.reporting.rows import Row, main_rows

COSTS = ("macs", "params", "throughput", "latency", "memory")
PUBLISHED, MEASURED = "published", "measured"

Point = dict[str, Any]


def charts(report: Report) -> list[Chart]:
    """A chart for each of MACs and parameters, and for each machine of what is timed."""
    made = []
    rows = [row for row in main_rows(report.rows) if row.task == "classification" and row.form == "deploy"]
    for metric in COSTS:
        for machine in [""] if METRICS[metric].cost else sorted({row.machine for row in rows if metric in row.cells}):
            points = _points((row for row in rows if machine in ("", row.machine)), metric)
            if points:
                made.append(_chart(points, metric, machine))
    return made


def figure(report: Report) -> Spec | None:
    """Published top-1 at 224 against MACs, and against throughput of the machine with most headline rows."""
    counted = [row for row in report.rows if row.resolution == "224" and row.form == "deploy" and row.value("macs")]
    fast = headline(report)
    panels: list[Spec] = []
    for rows, metric in ((counted, "macs"), (fast, "throughput")):
        points = [point for point in _points(rows, metric) if point["kind"] == PUBLISHED]
        if points:
            where = f", {fast[0].device} {fast[0].dtype}" if metric == "throughput" else ""
            x_title = f"{quantity(metric)[:-1]}{where})"
            y_title = None if panels else "Published ImageNet-1K top-1 at 224 (%)"
            panels.append(_panel(points, metric, x_title, y_title, joined=True))
    shared = {"color": "shared", "shape": "shared"}
    return {"hconcat": panels, "resolve": {"scale": shared}} if panels else None


def _points(rows: Iterable[Row], metric: str) -> list[Point]:
    """A point for each model, size and condition, with published and with measured top-1."""
    points: dict[tuple[str, ...], Point] = {}
    for row in rows:
        cell = row.cells.get(metric)
        if cell is None or cell.record.value is None or not cell.record.valid:
            continue
        under = "counted" if METRICS[metric].cost else row.under
        for kind, top1 in _top1(row).items():
            value = cell.value / METRICS[metric].divisor
            point = {**described(row), "value": value, "top1": top1, "kind": kind, "under": under}
            points.setdefault((row.model, row.resolution, kind, under), point)
    return list(points.values())


def _top1(row: Row) -> dict[str, float]:
    """Top-1 by where it comes from; of contradicting published figures the first, which is the authors' own."""
    known = {}
    if figures := row.published("top1"):
        known[PUBLISHED] = float(figures[0])
    measured = row.cells.get("top1")
    if measured is not None and measured.record.valid and measured.record.value is not None:
        known[MEASURED] = measured.value
    return known


def _chart(points: Sequence[Point], metric: str, machine: str) -> Chart:
    how = METRICS[metric]
    panel = _panel(points, metric, quantity(metric), "ImageNet-1K top-1 (%)")
    choice = {"params": [{"name": "kind", "value": PUBLISHED}], "transform": [{"filter": "datum.kind == kind"}]}
    where = f" on {machine}" if machine else ""
    best = "right" if how.better == HIGH else "left"
    caption = f"Top-1 against {how.heading}{where}, one point a model and resolution; better is up and to the {best}. "
    shown = {point["model"] for point in points}
    larger = [name for name, entry in MODELS.items() if name in shown and "in22k" in entry.published[0]]
    if larger:
        caption += f"Of weights pretrained on ImageNet-22K: {', '.join(larger)}."
    title = f"Top-1 and {how.heading}{where}"
    return Chart(f"accuracy-{metric}-{machine}", title, caption, {**choice, **panel}, by_top1=True)


def _panel(points: Sequence[Point], metric: str, x_title: str, y_title: str | None, joined: bool = False) -> Spec:
    how = METRICS[metric]
    log = {"type": "log", "nice": False, "padding": 20}
    tooltip = [
        {"field": "model"},
        {"field": "resolution"},
        {"field": "value", "title": f"{how.heading} ({how.shown_unit})", "format": f",.{how.digits}f"},
        {"field": "top1", "title": "top-1 (%)"},
        {"field": "kind", "title": "top-1 is"},
        {"field": "under", "title": "measured"},
    ]
    line = {"mark": {"type": "line", "strokeWidth": 1}, "encoding": {"color": look(points)["color"]}}
    return {
        "data": {"values": list(points)},
        "encoding": {
            "x": {"field": "value", "type": "quantitative", "scale": log, "title": x_title},
            "y": {"field": "top1", "type": "quantitative", "scale": {"zero": False, "padding": 16}, "title": y_title},
        },
        "layer": [
            *([line] if joined else []),
            {"mark": {"type": "point", "filled": True, "size": 70}, "encoding": {**look(points), "tooltip": tooltip}},
            LABELS,
        ],
    }
