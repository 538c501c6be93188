"""Figures over time, where several runs measured them: a chart for equal conditions, a line for each model."""

from __future__ import annotations

from datetime import datetime, timezone

from bench.metrics import METRICS
from bench.models import family_of
from bench.names import label, size, sized
from bench.reporting.charts.axes import Axis
from bench.reporting.charts.panel import Channel, Point, labelled, lines_by, markers, panel
from bench.reporting.charts.spec import PAGE, Chart, Theme, quantity
from bench.reporting.data import Report, histories

LINES = 8
"""Of one chart, at most; more are split by family, a chart each."""


def charts(report: Report, theme: Theme = PAGE) -> list[Chart]:
    """A chart for each machine, metric and conditions."""
    groups: dict[tuple[str, str, str], list[Point]] = {}
    for (machine, metric, model, form, resolution, task, *how), series in histories(report).items():
        at = f"{'' if task == 'classification' else f'{task} '}at {sized(resolution)}"
        device, dtype, batch, compiled, backend, threads = how
        words = [at, "" if form == "deploy" else f"{form} form", f"{device} {dtype}".strip()]
        words += [
            f"batch {batch}" if batch not in ("", "None") else "",
            f"{threads} threads" if threads != "None" else "",
        ]
        words += [compiled if compiled not in ("", "none") else ""]
        key = (machine, metric, ", ".join(filter(None, words)))
        for item in series:
            point = {
                "model": model,
                "name": label(model),
                "family": family_of(model).name,
                "series": f"{model} {backend}",
                "label": "",
                "time": _milliseconds(item.record.time),
                "commit": item.record.commit[:9],
                "value": item.value / METRICS[metric].divisor,
            }
            groups.setdefault(key, []).append(point)
    made = []
    for (machine, metric, under), points in groups.items():
        families = list(dict.fromkeys(point["family"] for point in points))
        split = len({point["series"] for point in points}) > LINES and len(families) > 1
        parts = [(f, [p for p in points if p["family"] == f]) for f in families] if split else [("", points)]
        made += [_chart(part, machine, metric, under, family, theme) for family, part in parts]
    return made


def _milliseconds(time: str) -> float:
    """Since 1970, which is what Vega counts in."""
    at = datetime.fromisoformat(time)
    return (at if at.tzinfo else at.replace(tzinfo=timezone.utc)).timestamp() * 1000


def _chart(points: list[Point], machine: str, metric: str, under: str, family: str, theme: Theme) -> Chart:
    times = Axis.around((p["time"] for p in points), theme.width - 40, 10)
    times = Axis(times.low, times.high + (times.high - times.low) * 40 / times.pixels, theme.width)  # for labels
    ticks = "%d %b %H:%M" if times.high - times.low < 3 * 86_400_000 else "%d %b %Y"
    options = {
        "axis": {"format": ticks, "tickCount": 4, "labelOverlap": "greedy"},
        "scale": {"type": "utc", "domain": [times.low, times.high], "nice": False},
    }
    x = Channel("time", "Measured (UTC)", times, "temporal", options)
    y = Channel("value", quantity(metric), Axis.around((p["value"] for p in points), theme.height, 14, up=True))
    lines: dict[str, list[Point]] = {}
    for point in sorted(points, key=lambda p: p["time"]):
        lines.setdefault(point["series"], []).append(point)
    for line in lines.values():
        line[-1]["label"] = size(line[-1]["model"])
    labelled(points, x, y, theme.text, lines.values())
    tooltip = [{"field": "name", "title": "model"}, {"field": "time", "type": "temporal", "format": "%Y-%m-%d %H:%M"}]
    tooltip += [{"field": "commit"}, {"field": "value", "title": METRICS[metric].shown_unit}]
    spec = panel(points, x, y, [lines_by("series", points)], [markers(points, 40, tooltip)])
    of = f" of {family}" if family else ""
    caption = f"{quantity(metric)}{of} on {machine} over its runs, {under}. A line is one model under equal conditions."
    slug = "".join(c if c.isalnum() else "-" for c in f"{under} {family}".strip())
    title = f"{METRICS[metric].heading.capitalize()} over time{of}, {under.split(', cpu')[0]}"
    return Chart(f"history-{metric}-{machine}-{slug}", title, caption, spec, further=True)
