"""A panel of points that have labels: its axes, its layers, and where each label stands."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.reporting.charts.axes import Axis
from bench.reporting.charts.labels import place
from bench.reporting.charts.spec import Spec, dashes, look

Point = dict[str, Any]


@dataclass(frozen=True)
class Channel:
    """What a panel shows along one of its sides: a field of its points, under a title, on an axis."""

    name: str
    title: str
    axis: Axis
    type: str = "quantitative"
    options: Spec = field(default_factory=dict)  # of Vega-Lite, in the place of the axis' own

    def pixel(self, point: Point) -> float:
        return self.axis.pixel(point[self.name])

    @property
    def encoding(self) -> Spec:
        return {"field": self.name, "type": self.type, "title": self.title, **self.axis.encoding, **self.options}


def panel(points: Sequence[Point], x: Channel, y: Channel, below: Sequence[Spec], marks: Sequence[Spec]) -> Spec:
    """The points as `marks`, with their labels, above the layers `below`."""
    lead = {
        "transform": [{"filter": "isValid(datum.lead_x)"}],
        "mark": {"type": "rule", "style": "lead"},
        "encoding": {
            "x": {"field": x.name, "type": x.type},
            "y": {"field": y.name, "type": y.type},
            "x2": {"field": "lead_x"},
            "y2": {"field": "lead_y"},
        },
    }
    text = {
        "transform": [{"filter": "isValid(datum.label_x)"}],
        "mark": {"type": "text", "align": "center", "baseline": "middle"},
        "encoding": {
            "x": {"field": "label_x", "type": x.type},
            "y": {"field": "label_y", "type": y.type},
            "text": {"field": "label"},
        },
    }
    return {
        "data": {"values": list(points)},
        "width": x.axis.pixels,
        "height": y.axis.pixels,
        "encoding": {"x": x.encoding, "y": y.encoding},
        "layer": [*below, lead, *marks, text],
    }


def markers(points: Iterable[Point], size: int, tooltip: Sequence[Spec], filled: bool = True) -> Spec:
    """The layer of the points: colour and shape say the family."""
    mark = {"type": "point", "filled": filled, "size": size}
    return {"mark": mark, "encoding": {**look(points), "tooltip": list(tooltip)}}


def lines_by(name: str, points: Sequence[Point]) -> Spec:
    """The layer of the lines, one for each value of a field: colour says the family, strokes the model."""
    encoding = {"color": look(points)["color"], "strokeDash": dashes(points), "detail": {"field": name}}
    return {"mark": {"type": "line", "strokeWidth": 1.3}, "encoding": encoding}


def labelled(
    points: Sequence[Point], x: Channel, y: Channel, size: float, lines: Iterable[Sequence[Point]] = ()
) -> None:
    """Give points with a text in `label` its place, in the units of the axes: `label_x`, `label_y`, and the end of the
    line that leads there, `lead_x` and `lead_y`.

    `lines` are drawn from point to point, and labels keep off them.
    """

    def pixel(point: Point) -> tuple[float, float]:
        return x.pixel(point), y.pixel(point)

    segments = [(pixel(a), pixel(b)) for line in lines for a, b in itertools.pairwise(line)]
    shown = [point for point in points if point.get("label")]
    silent = [point for point in points if not point.get("label")]
    texts = [*(str(point["label"]) for point in shown), *("" for _ in silent)]
    placed = place([pixel(point) for point in (*shown, *silent)], texts, size, (x.axis.pixels, y.axis.pixels), segments)
    for point, label in zip(shown, placed, strict=False):
        box = label.box
        point["label_x"] = x.axis.value((box.left + box.right) / 2)
        point["label_y"] = y.axis.value((box.top + box.bottom) / 2)
        if label.end:
            point["lead_x"], point["lead_y"] = x.axis.value(label.end[0]), y.axis.value(label.end[1])
