"""Labels that cover nothing: places of made-up crowds, and of the committed records' charts, by computed boxes."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from typing import Any

import pytest

from bench.reporting.charts import accuracy, charts, history, resolutions, roofline
from bench.reporting.charts.axes import Axis
from bench.reporting.charts.labels import MARKER, Box, extent, place
from bench.reporting.charts.panel import Channel, labelled
from bench.reporting.charts.spec import PAGE, PRINT, Spec, Theme
from bench.reporting.data import Report


@pytest.mark.parametrize("seed", range(4))
def test_labels_of_a_crowd_cover_neither_each_other_nor_markers(seed: int) -> None:
    rng = random.Random(seed)
    points = [(rng.uniform(100, 220), rng.uniform(60, 180)) for _ in range(16)]
    labels = place(points, ["XT", "T", "S 384", "B"] * 4, 11, (330, 250))
    markers = [Box.around(x, y, 2 * MARKER, 2 * MARKER) for x, y in points]
    for one, other in itertools.combinations(labels, 2):
        assert one.box.overlap(other.box) == 0
    for i, label in enumerate(labels):
        assert all(label.box.overlap(marker) == 0 for j, marker in enumerate(markers) if j != i)
        assert min(label.box.left, label.box.top, 330 - label.box.right, 250 - label.box.bottom) >= 0


def test_what_is_far_from_its_point_has_a_line_to_it() -> None:
    points = [(100.0 + 4 * i, 100.0) for i in range(12)]
    labels = place(points, ["OverLoCK"] * 12, 11, (330, 250))
    assert any(label.end for label in labels)
    for (x, y), label in zip(points, labels, strict=True):
        edge = label.box.nearest(x, y)
        assert label.end is not None or max(abs(edge[0] - x), abs(edge[1] - y)) < MARKER + 12


@pytest.mark.parametrize("seed", range(4))
def test_a_label_is_nearest_to_its_own_point_or_has_a_line_to_it(seed: int) -> None:
    rng = random.Random(seed)
    points = [(rng.uniform(100, 200), rng.uniform(60, 160)) for _ in range(20)]
    for point, label in zip(points, place(points, ["XT", "T", "S", "B"] * 5, 11, (330, 250)), strict=True):
        nearest = min(points, key=lambda other: math.dist(label.box.nearest(*other), other))
        assert label.end is not None or nearest == point


def test_an_axis_is_its_own_inverse() -> None:
    for axis in (Axis.around([2, 50], 330, 20, log=True), Axis.around([80, 85], 250, 16, up=True)):
        assert axis.value(axis.pixel(30.0)) == pytest.approx(30.0)
    assert Axis.around([5, 5], 100, 10).low < 5 < Axis.around([5, 5], 100, 10).high, "one value has an axis too"


def panels(spec: Spec) -> Iterator[Spec]:
    """The panels of a chart that place labels."""
    for name in ("hconcat", "vconcat", "concat"):
        for panel in spec.get(name, ()):
            yield from panels(panel)
    if "layer" in spec:
        yield spec


def boxes(panel: Spec, theme: Theme) -> list[tuple[str, Box]]:
    """The boxes of a panel's labels, computed anew from the specification; those of the published top-1 where asked."""
    ends: dict[str, Any] = {}
    for side, pixels in (("x", panel["width"]), ("y", panel["height"])):
        scale = panel["encoding"][side]["scale"]
        ends[side] = Axis(*scale["domain"], pixels, scale["type"] == "log", up=side == "y")
    points = [p for p in panel["data"]["values"] if "label_x" in p and p.get("kind") != "measured"]
    made = []
    for p in points:
        x, y = ends["x"].pixel(p["label_x"]), ends["y"].pixel(p["label_y"])
        made.append((p["label"], Box.around(x, y, *extent(p["label"], theme.text))))
    return made


@pytest.mark.parametrize("theme", [PAGE, PRINT], ids=["page", "print"])
def test_no_labels_of_the_committed_charts_overlap(committed: Report, theme: Theme) -> None:
    specs = {c.name: c.spec for m in (accuracy, resolutions, roofline, history) for c in m.charts(committed, theme)}
    specs["figure"] = accuracy.figure(committed, theme) or {}
    seen = 0
    for name, spec in specs.items():
        for panel in panels(spec):
            found = boxes(panel, theme)
            seen += len(found)
            for (one, box), (other, other_box) in itertools.combinations(found, 2):
                assert box.overlap(other_box) == 0, f"{name}: {one} covers {other}"
    assert seen > 20


def test_every_panel_names_its_axes_and_a_chart_has_one_legend(committed: Report) -> None:
    for chart in (chart for found in charts(committed).values() for chart in found):
        for panel in panels(chart.spec):
            assert all(panel["encoding"][side]["title"] for side in ("x", "y")), chart.name
            fields = {
                layer["encoding"]["color"]["field"] for layer in panel["layer"] if "color" in layer.get("encoding", {})
            }
            assert fields == {"family"}, f"{chart.name}: one legend, of families"
            dashed = [e["strokeDash"] for layer in panel["layer"] if "strokeDash" in (e := layer.get("encoding", {}))]
            assert all(dash["legend"] is None for dash in dashed)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.6, 180, [1, 10, 100]),
        (38, 210, [50, 100, 200]),
        (0.3, 31, [0.3, 1, 3, 10, 30]),
        (51, 99, [55, 60, 95]),
        (0.6, 36, [1, 2, 5, 10, 20]),
        (5.2, 30, [10, 20]),
        (20.5, 24, [21, 22, 23]),
    ],
)
def test_a_logarithmic_axis_has_its_round_values_each_with_its_label(
    low: float, high: float, expected: list[float]
) -> None:
    axis = Axis(low, high, 250, log=True).encoding["axis"]
    assert set(expected) <= set(axis["values"])
    assert len(axis["values"]) >= 3
    assert all(low <= value <= high for value in axis["values"])
    at = [Axis(low, high, 250, log=True).pixel(value) for value in axis["values"]]
    assert min(b - a for a, b in itertools.pairwise(at)) > 12, "labels of text of this size do not touch"
    assert not axis["labelOverlap"], "none is left out"


def test_labels_are_in_units_of_the_axes() -> None:
    x = Channel("cost", "MACs", Axis.around([1, 100], 330, 20, log=True))
    y = Channel("top1", "top-1", Axis.around([80, 85], 250, 16, up=True))
    points: list[dict[str, Any]] = [
        {"cost": 10.0, "top1": 83.0, "label": "T"},
        {"cost": 20.0, "top1": 84.0, "label": ""},
    ]
    labelled(points, x, y, 11)
    assert points[0]["label_x"] > 10.0, "on the right"
    assert points[0]["label_y"] == pytest.approx(83.0)
    assert "label_x" not in points[1]
