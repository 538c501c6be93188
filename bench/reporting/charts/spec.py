"""What the charts share: their themes, the look of families, the labels of points."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.metrics import METRICS
from bench.names import label, size
from bench.plugins import FAMILIES
from bench.reporting.rows import Row

Spec = dict[str, Any]


@dataclass(frozen=True)
class Chart:
    """A chart, and what it shows in a sentence."""

    name: str
    title: str
    caption: str
    spec: Spec  # without a theme
    by_top1: bool = False  # whether the choice of published or measured top-1 bears on it
    further: bool = False  # whether it stands in the appendix


@dataclass(frozen=True)
class Theme:
    """What a chart is drawn in: Vega-Lite's configuration, and the sizes that labels are placed by, in pixels."""

    config: Spec
    text: int
    width: int  # of a panel
    height: int


def _theme(ink: str, grid: str, background: str | None, font: str, size: int, panel: tuple[int, int]) -> Theme:
    text = {"labelColor": ink, "titleColor": ink, "labelFontSize": size, "titleFontSize": size}
    config = {
        "background": background,
        "font": font,
        "view": {"stroke": None, "continuousWidth": panel[0], "continuousHeight": panel[1]},
        "axis": {
            **text,
            "gridColor": grid,
            "domainColor": ink,
            "tickColor": ink,
            "titleFontWeight": "normal",
            "labelOverlap": "greedy",
            "labelSeparation": 3,
        },
        "legend": {
            **text,
            "orient": "bottom",
            "columns": 4,
            "symbolSize": 80,
            "labelLimit": 320,
            "rowPadding": 3,
            "columnPadding": 8,
        },
        "point": {"opacity": 1},
        "text": {"color": ink, "fontSize": size - 1},
        "title": {"color": ink, "fontSize": size + 1, "fontWeight": "normal"},
        "style": {
            "roof": {"color": ink, "strokeDash": [4, 3]},
            "front": {"color": ink, "opacity": 0.55, "strokeWidth": 1.2},
            "lead": {"color": ink, "opacity": 0.6, "strokeWidth": 0.7},
            "note": {"color": ink, "fontSize": size - 1},
        },
    }
    return Theme(config, size - 1, *panel)


PAGE = _theme("currentColor", "#8884", None, "system-ui, sans-serif", 12, (330, 250))
"""Text and lines follow the page into dark mode. A chart is about as wide as a phone."""
PRINT = _theme("black", "#e5e5e5", "white", "sans-serif", 10, (250, 215))
"""For papers and talks: two panels side by side are as wide as a page's text."""


def themed(spec: Spec, theme: Theme) -> Spec:
    """The specification with the theme that it is drawn in."""
    return {**spec, "config": theme.config}


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


DASHES = ([1, 0], [7, 3], [2, 2], [8, 2, 2, 2], [4, 2], [1, 3], [10, 3], [6, 2, 1, 2, 1, 2], [3, 5])


def dashes(points: Iterable[Mapping[str, Any]]) -> Spec:
    """The stroke of each model's lines: sizes of a family have its colour, and a stroke of their own each."""
    models = {point["name"]: point["model"] for point in points}
    known = {model: i for family in FAMILIES.values() for i, model in enumerate(map(family.model, family.sizes))}
    names = list(models)
    ranges = [DASHES[known.get(model, i) % len(DASHES)] for i, model in enumerate(models.values())]
    return {"field": "name", "type": "nominal", "scale": {"domain": names, "range": ranges}, "legend": None}


def described(row: Row) -> dict[str, Any]:
    """What each point says of its row, and its label: the size, with the resolution where it is not the usual one."""
    at = "" if row.resolution == "224" else f" {row.resolution}"
    return {
        "model": row.model,
        "name": label(row.model),
        "family": row.family,
        "resolution": row.resolution,
        "label": f"{size(row.model)}{at}",
    }


def quantity(metric: str) -> str:
    """An axis' title: the metric's heading with its unit."""
    how = METRICS[metric]
    return f"{how.heading[:1].upper()}{how.heading[1:]} ({how.shown_unit})"
