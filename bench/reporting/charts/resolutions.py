"""A figure against the image's side, where some model was measured at two resolutions or more."""

from __future__ import annotations

from typing import Any

from bench.metrics import METRICS
from bench.reporting.charts.spec import LABELS, Chart, Spec, described, look, quantity
from bench.reporting.data import Report
from bench.reporting.rows import main_rows


def charts(report: Report) -> list[Chart]:
    """A chart for each machine and metric."""
    made = []
    for machine in report.machines:
        for metric in ("throughput", "latency", "memory", "top1"):
            if points := _points(report, machine, metric):
                batch = "Only equal batches are joined." if metric == "memory" else "The batch may differ (hover)."
                caption = f"{quantity(metric)} at several resolutions on {machine}. {batch}"
                title = f"{METRICS[metric].heading.capitalize()} across resolutions, {machine}"
                spec = {"data": {"values": points}, **_panel(points, metric)}
                made.append(Chart(f"sweep-{metric}-{machine}", title, caption, spec))
    return made


def figures(report: Report) -> dict[str, Spec]:
    """Throughput beside memory, for each machine that timed models at several resolutions."""
    made: dict[str, Spec] = {}
    for machine in report.machines:
        both = {metric: _points(report, machine, metric) for metric in ("throughput", "memory")}
        if both["throughput"]:
            panels = [{"data": {"values": points}, **_panel(points, metric)} for metric, points in both.items()]
            shared = {"color": "shared", "shape": "shared"}
            made[f"resolutions-{machine}"] = {"hconcat": panels, "resolve": {"scale": shared}}
    return made


def _points(report: Report, machine: str, metric: str) -> list[dict[str, Any]]:
    """Points of the models that have two resolutions or more under the same conditions but the batch."""
    points = [
        {
            **described(row, ("right", "left")),
            "side": row.pixels**0.5,
            "value": row.cells[metric].value / METRICS[metric].divisor,
            "batch": row.batch,
            "under": row.under,
            "line": f"{row.model} {row.under}" + f" {row.batch}" * (metric == "memory"),  # a batch has its own memory
        }
        for row in main_rows(report.rows)
        if (row.task, row.form, row.machine) == ("classification", "deploy", machine)
        and metric in row.cells
        and row.cells[metric].record.valid
    ]
    sizes: dict[tuple[str, str], set[str]] = {}
    for point in points:
        sizes.setdefault((point["model"], point["under"]), set()).add(point["resolution"])
    points = [point for point in points if len(sizes[point["model"], point["under"]]) > 1]
    _label_ends(points)
    return points


def _label_ends(points: list[dict[str, Any]]) -> None:
    """Leave one label on each line, at the end that it stands beside; labels that would cover each other are joined."""
    lines: dict[str, list[dict[str, Any]]] = {}
    for point in points:
        lines.setdefault(point["line"], []).append(point)
    previous: dict[tuple[str, float], dict[str, Any]] = {}
    for line in sorted(lines.values(), key=lambda line: _end(line)["value"]):
        end = _end(line)
        label = end["label"].partition(" ")[0]  # the axis has the resolution
        for point in line:
            point["label"] = ""
        below = previous.get((end["family"], end["side"]))
        if below and end["value"] < 1.04 * below["value"]:
            below["label"] += f", {label}"
        else:
            end["label"] = label
            previous[end["family"], end["side"]] = end


def _end(line: list[dict[str, Any]]) -> dict[str, Any]:
    return (max if line[0]["align"] == "left" else min)(line, key=lambda point: point["side"])


def _panel(points: list[dict[str, Any]], metric: str) -> Spec:
    scale = {"zero": False} if metric == "top1" else {"type": "log", "nice": False, "padding": 12}
    tooltip = [{"field": name} for name in ("model", "resolution", "batch", "under")]
    tooltip.append({"field": "value", "title": METRICS[metric].shown_unit, "format": f",.{METRICS[metric].digits}f"})
    x = {"field": "side", "type": "quantitative", "title": "side of the image (pixels)", "axis": {"tickCount": 5}}
    return {
        "encoding": {
            "x": {**x, "scale": {"zero": False, "nice": False, "padding": 24}},
            "y": {"field": "value", "type": "quantitative", "title": quantity(metric), "scale": scale},
            "detail": {"field": "line"},
        },
        "layer": [
            {"mark": {"type": "line", "strokeWidth": 1}, "encoding": {"color": look(points)["color"]}},
            {"mark": {"type": "point", "filled": True}, "encoding": {**look(points), "tooltip": tooltip}},
            LABELS,
        ],
    }
