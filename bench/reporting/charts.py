"""The page's charts as Vega-Lite specifications: data to draw, no drawing. Imports no torch and no plotting library.

Text and lines are in `currentColor`, so that a chart follows the page into dark mode, drawn by the browser or before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.metrics import HIGH, METRICS
from bench.reporting.breakdowns import Breakdown, breakdowns, rooflines
from bench.reporting.data import Report, histories
from bench.reporting.rows import Row, main_rows

FAMILIES = ("OverLoCK", "ConvNeXt", "UniRepLKNet", "MogaNet", "timm")
COLOURS = ("#d55e00", "#0072b2", "#009e73", "#b07aa1", "#888888")
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross")
COSTS = ("macs", "params", "throughput", "latency", "memory")
PRETRAINED_22K = ("unireplknet_b", "unireplknet_l", "unireplknet_xl")
PUBLISHED, MEASURED = "published", "measured"
WIDTH, HEIGHT = 500, 340

Spec = dict[str, Any]


@dataclass(frozen=True)
class Chart:
    """A chart, what it shows in a sentence, and whether the choice of published or measured top-1 bears on it."""

    name: str
    title: str
    caption: str
    spec: Spec
    by_top1: bool = False


def charts(report: Report) -> dict[str, list[Chart]]:
    """The page's charts by section; sections without data are left out."""
    sections = {
        "accuracy": accuracy(report),
        "sweeps": sweeps(report),
        "roofline": roofline(report),
        "breakdown": [breakdown_chart(b) for b in breakdowns(report.evidence.all)],
        "history": history(report),
    }
    return {name: found for name, found in sections.items() if found}


def _spec(values: Sequence[dict[str, Any]], **parts: Any) -> Spec:
    text = {"labelColor": "currentColor", "titleColor": "currentColor"}
    config = {
        "background": None,
        "font": "system-ui, sans-serif",
        "view": {"stroke": None},
        "axis": {
            **text,
            "labelFontSize": 12,
            "titleFontSize": 12,
            "gridColor": "#8884",
            "domainColor": "currentColor",
            "tickColor": "currentColor",
        },
        "legend": {**text, "orient": "bottom", "columns": 4, "labelFontSize": 12, "symbolSize": 90},
        "point": {"opacity": 1},
        "title": {"color": "currentColor"},
        "header": text,
    }
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "data": {"values": list(values)},
        "config": config,
        **parts,
    }


def _family(legend: bool = True) -> dict[str, Any]:
    hidden = {} if legend else {"legend": None}
    domain = list(FAMILIES)
    return {
        "color": {"field": "family", "type": "nominal", "scale": {"domain": domain, "range": list(COLOURS)},
                  "title": None, **hidden},
        "shape": {"field": "family", "type": "nominal", "scale": {"domain": domain, "range": list(SHAPES)},
                  "title": None, **hidden},
    }  # fmt: skip


def _top1(row: Row) -> dict[str, float]:
    """Top-1 by where it comes from; of contradicting published figures the first, which is the authors' own."""
    found = {}
    if row.published_top1:
        found[PUBLISHED] = float(row.published_top1[0])
    measured = row.cells.get("top1")
    if measured is not None and measured.record.valid and measured.record.value is not None:
        found[MEASURED] = measured.value
    return found


def accuracy(report: Report) -> list[Chart]:
    """Top-1 against each cost: a chart for each of MACs and parameters, and for each machine of what is timed."""
    found = []
    rows = [row for row in main_rows(report.rows) if row.task == "classification" and row.form == "deploy"]
    for metric in COSTS:
        counted = metric in ("macs", "params")
        machines = [""] if counted else sorted({row.machine for row in rows if metric in row.cells})
        for machine in machines:
            points = _points(rows, metric, machine)
            if points:
                found.append(_accuracy_chart(points, metric, machine))
    return found


def _points(rows: Sequence[Row], metric: str, machine: str) -> list[dict[str, Any]]:
    points: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        value = row.value(metric)
        if value is None or (machine and row.machine != machine) or not row.cells[metric].record.valid:
            continue
        for kind, top1 in _top1(row).items():
            where = row.under if machine else "counted"
            point = {
                "model": row.model,
                "family": row.family,
                "resolution": row.resolution,
                "value": value / METRICS[metric].divisor,
                "top1": top1,
                "kind": kind,
                "under": where,
            }
            points.setdefault((row.model, row.resolution, kind, where), point)
    return list(points.values())


def _axis(metric: str) -> str:
    how = METRICS[metric]
    return f"{how.heading[0].upper() + how.heading[1:] if how.heading[0].islower() else how.heading} ({how.shown_unit})"


def _accuracy_chart(points: list[dict[str, Any]], metric: str, machine: str) -> Chart:
    how = METRICS[metric]
    x = {
        "field": "value",
        "type": "quantitative",
        "scale": {"type": "log", "nice": False, "padding": 20},
        "title": _axis(metric),
    }
    y = {
        "field": "top1",
        "type": "quantitative",
        "scale": {"zero": False, "padding": 16},
        "title": "ImageNet-1K top-1 (%)",
    }
    tooltip = [
        {"field": "model"},
        {"field": "resolution"},
        {"field": "value", "title": f"{how.heading} ({how.shown_unit})", "format": f",.{how.digits}f"},
        {"field": "top1", "title": "top-1 (%)"},
        {"field": "kind", "title": "top-1 is"},
        {"field": "under", "title": "measured"},
    ]
    spec = _spec(
        points,
        params=[{"name": "kind", "value": PUBLISHED}],
        transform=[{"filter": "datum.kind == kind"}],
        encoding={"x": x, "y": y},
        layer=[
            {"mark": {"type": "point", "filled": True, "size": 70}, "encoding": {**_family(), "tooltip": tooltip}},
            {
                "mark": {"type": "text", "dy": -10, "fontSize": 11, "color": "currentColor"},
                "encoding": {"text": {"field": "label"}},
                "transform": [{"calculate": _LABEL, "as": "label"}],
            },
        ],
    )
    where = f" on {machine}" if machine else ""
    with_22k = any(point["model"] in PRETRAINED_22K for point in points)
    best = "right" if how.better == HIGH else "left"
    caption = f"Top-1 against {how.heading}{where}, one point a model and resolution; better is up and to the {best}. "
    caption += (
        "UniRepLKNet-B, L and XL are of weights pretrained on ImageNet-22K and are shown at their 384." * with_22k
    )
    return Chart(f"accuracy-{metric}-{machine}", f"Top-1 and {how.heading}{where}", caption, spec, by_top1=True)


_LABEL = "upper(split(datum.model, '_')[1] || datum.model) + (datum.resolution == '224' ? '' : ' ' + datum.resolution)"


def sweeps(report: Report) -> list[Chart]:
    """A figure against the image's side, where some model was measured at two resolutions or more."""
    found = []
    rows = [row for row in main_rows(report.rows) if row.task == "classification" and row.form == "deploy"]
    for machine in sorted({row.machine for row in rows}):
        for metric in ("throughput", "latency", "memory", "top1"):
            points = [
                {
                    "model": row.model,
                    "family": row.family,
                    "side": row.pixels**0.5,
                    "resolution": row.resolution,
                    "value": row.cells[metric].value / METRICS[metric].divisor,
                    "batch": row.batch,
                    "under": row.under,
                }
                for row in rows
                if row.machine == machine and metric in row.cells and row.cells[metric].record.valid
            ]
            sizes: dict[tuple[Any, ...], set[str]] = {}
            for point in points:
                sizes.setdefault((point["model"], point["under"]), set()).add(point["resolution"])
            points = [p for p in points if len(sizes[p["model"], p["under"]]) > 1]
            if points:
                found.append(_sweep_chart(points, metric, machine))
    return found


def _sweep_chart(points: list[dict[str, Any]], metric: str, machine: str) -> Chart:
    how = METRICS[metric]
    scale = {"type": "log"} if how.better == HIGH and metric != "top1" else {"zero": False}
    side = {"field": "side", "type": "quantitative", "title": "side of the image (pixels)"}
    lines = ["model", "under", *(["batch"] if metric == "memory" else [])]
    tooltip = [{"field": name} for name in ("model", "resolution", "batch", "under")]
    tooltip.append({"field": "value", "title": how.shown_unit, "format": f",.{how.digits}f"})
    last = [
        {"joinaggregate": [{"op": "max", "field": "side", "as": "last"}], "groupby": lines},
        {"filter": "datum.side == datum.last"},
    ]
    spec = _spec(
        points,
        encoding={
            "x": {**side, "scale": {"zero": False, "padding": 50}},
            "y": {"field": "value", "type": "quantitative", "title": _axis(metric), "scale": scale},
            "detail": [{"field": name} for name in lines],
        },
        layer=[
            {
                "mark": {"type": "line", "point": {"size": 50}},
                "encoding": {"color": _family()["color"], "tooltip": tooltip},
            },
            {
                "mark": {"type": "text", "align": "left", "dx": 6, "fontSize": 11, "color": "currentColor"},
                "encoding": {"text": {"field": "model"}},
                "transform": last,
            },
        ],
    )
    batch = "Only equal batches are joined." if metric == "memory" else "The batch may differ (hover)."
    caption = f"{_axis(metric)} at several resolutions on {machine}. {batch}"
    title = f"{how.heading.capitalize()} across resolutions, {machine}"
    return Chart(f"sweep-{metric}-{machine}", title, caption, spec)


def roofline(report: Report) -> list[Chart]:
    """Achieved MAC rate against MACs per byte moved, under the machine's measured peaks."""
    found = []
    for roof in rooflines(report):
        points = [
            {"model": p.model, "family": p.family, "intensity": p.intensity, "rate": p.rate / 1e9, "kind": p.what}
            for p in roof.points
        ]
        ends = (min(p.intensity for p in roof.points) / 2, max(p.intensity for p in roof.points) * 2)
        ridge = roof.peak / roof.bandwidth
        line = [
            {"intensity": x, "rate": min(roof.peak, x * roof.bandwidth) / 1e9}
            for x in sorted({*ends, min(max(ridge, ends[0]), ends[1])})
        ]
        log = {"type": "log", "nice": False, "padding": 24}
        x = {"field": "intensity", "type": "quantitative", "scale": log, "title": "MACs per byte moved"}
        y = {"field": "rate", "type": "quantitative", "scale": log, "title": "achieved GMACs/s"}
        tooltip = [{"field": "model"}, {"field": "kind"}]
        tooltip += [{"field": name, "format": ".3~g"} for name in ("intensity", "rate")]
        spec = _spec(
            points,
            layer=[
                {
                    "data": {"values": line},
                    "mark": {"type": "line", "color": "currentColor", "strokeDash": [4, 3]},
                    "encoding": {"x": x, "y": y},
                },
                {
                    "mark": {"type": "point", "filled": True, "size": 70},
                    "encoding": {"x": x, "y": y, **_family(), "tooltip": tooltip},
                },
                {
                    "mark": {"type": "text", "dy": -10, "fontSize": 11, "color": "currentColor"},
                    "encoding": {"x": x, "y": y, "text": {"field": "model"}},
                },
            ],
        )
        caption = (
            f"{roof.machine}: measured peak {roof.peak / 1e9:.0f} GMACs/s, copy bandwidth {roof.bandwidth / 1e9:.1f} "
            f"GB/s, {roof.dtype}. Bytes are those that operators read and write, were every one to go to memory."
        )
        found.append(Chart(f"roofline-{roof.machine}-{roof.dtype}", f"Roofline of {roof.machine}", caption, spec))
    return found


def breakdown_chart(b: Breakdown) -> Chart:
    """Shares of time, MACs, parameters and activations by kind of operator and by stage."""
    points = [
        {"by": by, "part": part, "of": of, "share": value / total, "value": value}
        for (by, of), parts in b.parts.items()
        for part, value in parts.items()
        if (total := sum(parts.values()))
    ]
    spec = _spec(
        points,
        width=WIDTH - 90,
        height=90,
        mark="bar",
        encoding={
            "row": {"field": "by", "type": "nominal", "title": None},
            "y": {"field": "of", "type": "nominal", "title": None},
            "x": {"field": "share", "type": "quantitative", "stack": True, "axis": {"format": "%"}, "title": "share"},
            "color": {"field": "part", "type": "nominal", "title": None},
            "tooltip": [{"field": "part"}, {"field": "of"}, {"field": "share", "format": ".1%"}],
        },
        resolve={"scale": {"color": "independent"}},
    )
    caption = f"{b.model}, {b.form} form, {b.resolution}, {b.under}: where time, MACs, parameters and activations are."
    return Chart(f"breakdown-{b.model}-{b.form}-{b.resolution}-{b.machine}", f"Breakdown of {b.model}", caption, spec)


def history(report: Report) -> list[Chart]:
    """Figures over time where several runs measured them: a chart for each machine and metric."""
    charts: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for key, series in histories(report).items():
        machine, metric = key[0], key[1]
        for found in series:
            r = found.record
            point = {
                "model": r.model,
                "series": " ".join(part for part in (*key[2:5], *key[6:9]) if part not in ("", "None")),
                "time": r.time,
                "commit": r.commit[:9],
                "value": found.value / METRICS[metric].divisor,
            }
            charts.setdefault((machine, metric), []).append(point)
    made = []
    for (machine, metric), points in charts.items():
        how = METRICS[metric]
        spec = _spec(
            points,
            mark={"type": "line", "point": True},
            encoding={
                "x": {"field": "time", "type": "temporal", "title": "measured (UTC)"},
                "y": {"field": "value", "type": "quantitative", "title": _axis(metric), "scale": {"zero": False}},
                "color": {
                    "field": "series",
                    "type": "nominal",
                    "title": None,
                    "legend": {"columns": 1, "labelLimit": 320},
                },
                "tooltip": [{"field": n} for n in ("series", "time", "commit", "value")],
            },
        )
        caption = f"{_axis(metric)} of {machine} over its runs; only equal conditions are joined."
        made.append(Chart(f"history-{metric}-{machine}", f"{how.heading} over time", caption, spec))
    return made
