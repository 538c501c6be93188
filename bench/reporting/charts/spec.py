"""What the charts share: their themes, the look of families, the labels of points."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.families import FAMILIES
from bench.metrics import METRICS
from bench.models import MODELS
from bench.reporting.rows import Row

Spec = dict[str, Any]


@dataclass(frozen=True)
class Chart:
    """A chart, what it shows in a sentence, and whether the choice of published or measured top-1 bears on it."""

    name: str
    title: str
    caption: str
    spec: Spec  # without a theme
    by_top1: bool = False


def _theme(ink: str, grid: str, background: str | None, font: str, size: int, panel: tuple[int, int]) -> Spec:
    text = {"labelColor": ink, "titleColor": ink, "labelFontSize": size, "titleFontSize": size}
    return {
        "background": background,
        "font": font,
        "view": {"stroke": None, "continuousWidth": panel[0], "continuousHeight": panel[1]},
        "axis": {**text, "gridColor": grid, "domainColor": ink, "tickColor": ink, "titleFontWeight": "normal"},
        "legend": {**text, "orient": "bottom", "columns": 4, "symbolSize": 90, "labelLimit": 320},
        "point": {"opacity": 1},
        "text": {"color": ink, "fontSize": size - 1},
        "title": {"color": ink, "fontSize": size + 1, "fontWeight": "normal"},
        "style": {"roof": {"color": ink, "strokeDash": [4, 3]}},
    }


PAGE = _theme("currentColor", "#8884", None, "system-ui, sans-serif", 12, (500, 340))
"""Text and lines follow the page into dark mode."""
PRINT = _theme("black", "#e5e5e5", "white", "sans-serif", 10, (250, 215))
"""For papers and talks: two panels side by side are as wide as a page's text."""


def themed(spec: Spec, theme: Spec) -> Spec:
    """The specification with the theme that it is drawn in."""
    return {**spec, "config": theme}


def look(points: Iterable[Mapping[str, Any]]) -> dict[str, Spec]:
    """Colour and shape of the families that are among the points, with one legend."""
    present = {point["family"] for point in points}
    families = [family for family in FAMILIES.values() if family.name in present]
    names = [family.name for family in families]
    ranges = {"color": [family.colour for family in families], "shape": [family.marker for family in families]}
    return {
        channel: {"field": "family", "type": "nominal", "scale": {"domain": names, "range": values}, "title": None}
        for channel, values in ranges.items()
    }


PLACES: Mapping[str, Spec] = {
    "above": {"align": "center", "dx": 0, "dy": -10},
    "below": {"align": "center", "dx": 0, "dy": 11},
    "left": {"align": "right", "dx": -7, "dy": 0},
    "right": {"align": "left", "dx": 7, "dy": 0},
}


def described(row: Row, places: Sequence[str] = tuple(PLACES)) -> dict[str, Any]:
    """What each point says of its row, and its label: families have theirs at several sides, clear of one another."""
    label = row.model.partition("_")[2].upper() if row.model in MODELS else row.model
    return {
        "model": row.model,
        "family": row.family,
        "resolution": row.resolution,
        "label": label if row.resolution == "224" else f"{label} {row.resolution}",
        **PLACES[places[list(FAMILIES).index(row.family) % len(places)]],
    }


LABELS: Spec = {
    "mark": {"type": "text", **{name: {"expr": f"datum.{name}"} for name in ("align", "dx", "dy")}},
    "encoding": {"text": {"field": "label"}},
}
"""A layer of the points' labels."""


def quantity(metric: str) -> str:
    """An axis' title: the metric's heading with its unit."""
    how = METRICS[metric]
    return f"{how.heading[:1].upper()}{how.heading[1:]} ({how.shown_unit})"
