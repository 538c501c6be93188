"""A figure against the image's side, where some model was measured at two resolutions or more."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from bench.metrics import METRICS
from bench.names import sized
from bench.reporting.charts.axes import Axis
from bench.reporting.charts.panel import Channel, Point, labelled, lines_by, markers, panel
from bench.reporting.charts.spec import PAGE, PRINT, Chart, Spec, Theme, described, quantity
from bench.reporting.data import Report
from bench.reporting.readme import elsewhere
from bench.reporting.rows import main_rows

SHOWN = ("throughput", "latency", "memory", "top1")
LONE = 0.3  # of a panel's width, for a batch that was measured at one resolution


def charts(report: Report, theme: Theme = PAGE) -> list[Chart]:
    """A chart for each machine, metric and conditions."""
    made = []
    for machine in report.machines:
        for metric in SHOWN:
            for under, points in _points(report, machine, metric).items():
                caption = f"{quantity(metric)} at several resolutions on {machine}, {under}, both axes logarithmic. "
                if metric == "top1":
                    caption = f"{quantity(metric)} at several resolutions, measured on {machine}, {under}. "
                caption += "A line is one model under equal conditions"
                caption += " and one batch: points of different batches are not joined." if _batched(metric) else "."
                title = f"{METRICS[metric].heading.capitalize()} across resolutions, {machine}"
                name = f"sweep-{metric}-{machine}{_suffix(report, machine, metric, under)}"
                spec = _figure(points, metric, theme)
                made.append(Chart(name, title, caption, spec, further=elsewhere(report, machine)))
    return made


def figures(report: Report, theme: Theme = PRINT) -> dict[str, Spec]:
    """Throughput beside memory, for each machine and conditions that models were timed under at several resolutions."""
    made: dict[str, Spec] = {}
    for machine in report.machines:
        memory = _points(report, machine, "memory")
        for under, points in _points(report, machine, "throughput").items():
            panels = [_figure(points, "throughput", theme)]
            panels += [_figure(memory[under], "memory", theme)] if under in memory else []
            shared = {"color": "shared", "shape": "shared", "strokeDash": "shared"}
            name = f"resolutions-{machine}{_suffix(report, machine, 'throughput', under)}"
            made[name] = {"hconcat": panels, "resolve": {"scale": shared}}
    return made


def _suffix(report: Report, machine: str, metric: str, under: str) -> str:
    """What tells a chart from those of other conditions, where there are any."""
    words = under.replace(",", "").replace(" ", "-")
    return f"-{words}" if len(_points(report, machine, metric)) > 1 else ""


def _batched(metric: str) -> bool:
    return "batch" in METRICS[metric].depends_on


def _points(report: Report, machine: str, metric: str) -> dict[str, list[Point]]:
    """Conditions -> points of the models that have two resolutions or more under them, whatever the batch."""
    all_of: dict[str, list[Point]] = {}
    for row in main_rows(report.rows):
        value, here = row.valid(metric), (row.task, row.form, row.machine) == ("classification", "deploy", machine)
        if value is None or not here or not row.pixels:
            continue
        batch = row.batch if _batched(metric) else None
        point = {
            **described(row),
            "side": row.pixels**0.5,
            "value": value / METRICS[metric].divisor,
            "batch": batch,
            "under": row.under,
            "line": f"{row.model} {row.under} {batch}",
        }
        all_of.setdefault(row.under, []).append(point)
    kept = {}
    for under, points in all_of.items():
        sizes: dict[str, set[str]] = {}
        for point in points:
            sizes.setdefault(point["model"], set()).add(point["resolution"])
        if some := [point for point in points if len(sizes[point["model"]]) > 1]:
            kept[under] = some
    return kept


def _figure(points: Sequence[Point], metric: str, theme: Theme) -> Spec:
    """A panel for each batch, on one scale of the metric, as wide together as the theme's panel."""
    batches = list(dict.fromkeys(point["batch"] for point in sorted(points, key=lambda p: p["batch"] or 0)))
    groups = [[point for point in points if point["batch"] == batch] for batch in batches]
    lone = [len({point["side"] for point in group}) == 1 for group in groups]
    share = (1 - LONE * sum(lone) * (not all(lone))) / max(lone.count(False), 1) if not all(lone) else 1 / len(lone)
    y = Axis.around((p["value"] for p in points), theme.height, 14, log=metric != "top1", up=True)
    panels = []
    for batch, group, alone in zip(batches, groups, lone, strict=True):
        width = theme.width * (LONE if alone and not all(lone) else share)
        title = {"title": f"batch {batch}"} if batch else {}
        panels.append({**title, **_panel(group, points, metric, y, round(width), theme)})
    return panels[0] if len(panels) == 1 else {"hconcat": panels, "spacing": 14}


def _panel(
    points: Sequence[Point], everything: Sequence[Point], metric: str, scale: Axis, width: int, theme: Theme
) -> Spec:
    sides = {point["side"]: sized(point["resolution"]) for point in points}
    ticks = {"axis": {"values": sorted(sides), "labelExpr": _names(sides), "grid": True}}
    x = Channel("side", "Image (pixels)", Axis.around(sides, width, 26, log=True), options=ticks)
    y = Channel("value", quantity(metric), scale)
    lines = _lines(points)
    for line in lines.values():  # one label for each line, at its end
        for point in line[:-1]:
            point["label"] = ""
        line[-1]["label"] = line[-1]["label"].partition(" ")[0]  # the axis has the resolution
    labelled(points, x, y, theme.text, lines.values())
    tooltip = [{"field": "name", "title": "model"}, *({"field": name} for name in ("resolution", "batch", "under"))]
    tooltip.append({"field": "value", "title": METRICS[metric].shown_unit, "format": f",.{METRICS[metric].digits}f"})
    return panel(points, x, y, [lines_by("line", everything)], [markers(everything, 45, tooltip)])


def _lines(points: Iterable[Point]) -> dict[str, list[Point]]:
    """The points of each line, from the smallest image on."""
    lines: dict[str, list[Point]] = {}
    for point in sorted(points, key=lambda p: p["side"]):
        lines.setdefault(point["line"], []).append(point)
    return lines


def _names(sides: Mapping[float, str]) -> str:
    """Vega's expression of an axis' labels."""
    choices = "".join(f"abs(datum.value - {side}) < 0.01 ? {json.dumps(name)} : " for side, name in sides.items())
    return f"{choices}''"
