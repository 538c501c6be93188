"""Top-1 against what it costs."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from bench.families import IN_22K
from bench.metrics import HIGH, METRICS
from bench.models import MODELS
from bench.reporting.charts.axes import Axis
from bench.reporting.charts.panel import Channel, Point, labelled, markers, panel
from bench.reporting.charts.spec import PAGE, PRINT, Chart, Spec, Theme, described, look, quantity
from bench.reporting.data import Report
from bench.reporting.readme import headlines
from bench.reporting.rows import Row, main_rows

MAIN = ("macs", "throughput")
"""The costs whose charts stand before the appendix."""
COSTS = ("macs", "params", "throughput", "latency", "memory")
PUBLISHED, MEASURED = "published", "measured"
COLUMNS = 2  # panels of the figure beside one another
BETWEEN = 55  # pixels from a panel to the one beside it


def charts(report: Report, theme: Theme = PAGE) -> list[Chart]:
    """A chart for each of MACs and parameters, and for each machine of what is timed."""
    made = []
    rows = [row for row in main_rows(report.rows) if row.task == "classification" and row.form == "deploy"]
    for metric in COSTS:
        known = [row for row in rows if metric in row.cells]
        for where, group in ({"": known} if METRICS[metric].cost else _by_place(known)).items():
            if points := _points(group, metric):
                made.append(_chart(points, metric, where, theme))
    return made


def _by_place(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows by machine, device and dtype, where several are known: at each place those of the conditions with most."""
    places: dict[tuple[str, ...], dict[tuple[Any, ...], list[Row]]] = {}
    for row in rows:
        alike = places.setdefault((row.machine, row.device, row.dtype), {})
        alike.setdefault((row.resolution, row.under, row.batch), []).append(row)
    several = Counter(machine for machine, *_ in places)
    return {
        machine if several[machine] == 1 else f"{machine}, {device} {dtype}": max(alike.values(), key=len)
        for (machine, device, dtype), alike in sorted(places.items())
    }


def figure(report: Report, theme: Theme = PRINT) -> Spec | None:
    """Published top-1 at 224 against MACs, and against the throughput of each machine's headline rows."""
    counted = [row for row in report.rows if row.resolution == "224" and row.form == "deploy" and row.value("macs")]
    timed = headlines(report)
    machines = [panel for rows in timed if (panel := _printed(rows, "throughput", theme, named=len(timed) > 1))]
    wide = replace(theme, width=2 * theme.width + BETWEEN) if machines and len(machines) % COLUMNS == 0 else theme
    macs = _printed(counted, "macs", wide)
    resolve = {"scale": {"color": "shared", "shape": "shared"}}
    if macs and wide is not theme:
        return {"vconcat": [macs, {"concat": machines, "columns": COLUMNS}], "resolve": resolve}
    panels = [*([macs] if macs else []), *machines]
    return {"concat": panels, "columns": COLUMNS, "resolve": resolve} if panels else None


def _printed(rows: Sequence[Row], metric: str, theme: Theme, named: bool = False) -> Spec | None:
    """A panel of the figure; `named` puts the machine's name above it."""
    points = [point for point in _points(rows, metric) if point["kind"] == PUBLISHED]
    if not points:
        return None
    where = "" if metric == "macs" else f", {rows[0].device} {rows[0].dtype}, batch {rows[0].batch}"
    titles = f"{quantity(metric)[:-1]}{where})", "Published ImageNet-1K top-1 at 224 (%)"
    made = _panel(points, metric, titles, theme, joined=True)
    return {**made, "title": rows[0].machine} if named else made


def _points(rows: Iterable[Row], metric: str) -> list[Point]:
    """A point for each model, size and condition, with published and with measured top-1."""
    points: dict[tuple[str, ...], Point] = {}
    for row in rows:
        figure = row.valid(metric)
        if figure is None:
            continue
        under = "counted" if METRICS[metric].cost else f"{row.under}, batch {row.batch}"
        for kind, top1 in _top1(row).items():
            value = figure / METRICS[metric].divisor
            point = {**described(row), "value": value, "top1": top1, "kind": kind, "under": under}
            point["larger"] = row.model in MODELS and IN_22K in MODELS[row.model].published[0]
            points.setdefault((row.model, row.resolution, kind, under), point)
    return list(points.values())


def _top1(row: Row) -> dict[str, float]:
    """Top-1 by where it comes from; of contradicting published figures the first, which is the authors' own."""
    known = {}
    if figures := row.published("top1"):
        known[PUBLISHED] = float(figures[0])
    if (measured := row.valid("top1")) is not None:
        known[MEASURED] = measured
    return known


def front(points: Iterable[Point], metric: str) -> list[Point]:
    """The Pareto front, from the cheapest point on: those that no other one equals or beats in cost and in top-1.

    Points of weights that were pretrained on more images than ImageNet-1K are left out: they are not compared.
    """
    sign = -1 if METRICS[metric].better == HIGH else 1
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (sign * p["value"], -p["top1"])):
        if not point["larger"] and (not best or point["top1"] > best[-1]["top1"]):
            best.append(point)
    return best


def _chart(points: Sequence[Point], metric: str, machine: str, theme: Theme) -> Chart:
    how = METRICS[metric]
    measured = any(point["kind"] == MEASURED for point in points)
    y_title = "ImageNet-1K top-1 (%)" if measured else "Published ImageNet-1K top-1 (%)"
    spec = _panel(points, metric, (quantity(metric), y_title), theme)
    choice = {"params": [{"name": "kind", "value": PUBLISHED}]}
    where = f" on {machine}" if machine else ""
    best = "right" if how.better == HIGH else "left"
    chosen = "unless measured is chosen above" if measured else "not measured here"
    caption = (
        f"Top-1 against {how.heading}{where}, one point for each model and resolution; better is up and to the {best}. "
        f"Top-1 is as published, {chosen}. The dashed line is the Pareto front of weights of ImageNet-1K alone."
    )
    larger = dict.fromkeys(point["name"] for point in points if point["larger"])
    if larger:
        caption += f" Hollow: pretrained on ImageNet-22K ({', '.join(larger)})."
    under = sorted({point["under"] for point in points} - {"counted"})
    caption += f" Measured: {'; '.join(under)}." if under else ""
    title = f"Top-1 and {how.heading}{where}"
    name, further = f"accuracy-{metric}-{machine.replace(', ', '-').replace(' ', '-')}", metric not in MAIN
    return Chart(name, title, caption, {**choice, **spec}, by_top1=True, further=further)


def _panel(points: Sequence[Point], metric: str, titles: tuple[str, str], theme: Theme, joined: bool = False) -> Spec:
    """A panel of the theme's size; `joined` joins the sizes of each family, in the order of their cost."""
    how = METRICS[metric]
    x = Channel("value", titles[0], Axis.around((p["value"] for p in points), theme.width, 22, log=True))
    y = Channel("top1", titles[1], Axis.around((p["top1"] for p in points), theme.height, 20, up=True))
    fronts = []
    for kind in (PUBLISHED, MEASURED):
        these = [point for point in points if point["kind"] == kind]
        lines = [sorted((p for p in these if p["family"] == f), key=lambda p: p["value"]) for f in _families(these)]
        best = front(these, metric)
        fronts += [{**point, "place": i} for i, point in enumerate(best)]
        labelled(these, x, y, theme.text, [*(lines if joined else ()), _steps(best)])
    tooltip: list[Spec] = [
        {"field": "name", "title": "model"},
        {"field": "resolution"},
        {"field": "value", "title": f"{how.heading} ({how.shown_unit})", "format": f",.{how.digits}f"},
        {"field": "top1", "title": "top-1 (%)"},
        {"field": "kind", "title": "top-1 is"},
        {"field": "under", "title": "measured"},
    ]
    line = {"mark": {"type": "line", "strokeWidth": 1}, "encoding": {"color": look(points)["color"]}}
    shown = [] if joined else [{"filter": "datum.kind == kind"}]
    marks = [
        {"transform": [{"filter": f"{'' if larger else '!'}datum.larger"}], **markers(points, 60, tooltip, not larger)}
        for larger in sorted({point["larger"] for point in points})
    ]
    dashed = {
        "data": {"values": fronts},
        "transform": shown,
        "mark": {"type": "line", "interpolate": "step-after", "strokeDash": [3, 3], "style": "front"},
        "encoding": {"order": {"field": "place", "type": "quantitative"}},
    }
    return {**panel(points, x, y, [dashed, *([line] if joined else [])], marks), "transform": shown}


def _families(points: Iterable[Point]) -> list[str]:
    return list(dict.fromkeys(point["family"] for point in points))


def _steps(best: Sequence[Point]) -> list[Point]:
    """The corners of the front as it is drawn."""
    made = list(best[:1])
    for before, after in itertools.pairwise(best):
        made += [{**before, "value": after["value"]}, after]
    return made
