"""The achieved MAC rate against MACs per byte moved, under the machine's measured peaks."""

from __future__ import annotations

from bench.reporting.breakdowns import Roofline, rooflines
from bench.reporting.charts.spec import LABELS, Chart, Spec, described, look
from bench.reporting.data import Report

PLACES = ("right", "below", "left", "right")
LOG = {"type": "log", "nice": False, "padding": 24}


def charts(report: Report) -> list[Chart]:
    """A chart for each machine and dtype whose peaks are recorded."""
    return [_chart(roof) for roof in rooflines(report)]


def _chart(roof: Roofline) -> Chart:
    points = [{**described(p.row, PLACES), "intensity": p.intensity, "rate": p.rate / 1e9} for p in roof.points]
    low, high = min(p.intensity for p in roof.points) / 2, max(p.intensity for p in roof.points) * 2
    ridge = min(max(roof.peak / roof.bandwidth, low), high)
    roofs = [{"intensity": x, "rate": min(roof.peak, x * roof.bandwidth) / 1e9} for x in sorted({low, ridge, high})]
    tooltip = [{"field": "model"}, {"field": "resolution"}]
    tooltip += [{"field": name, "format": ".3~g"} for name in ("intensity", "rate")]
    spec: Spec = {
        "data": {"values": points},
        "encoding": {
            "x": {"field": "intensity", "type": "quantitative", "scale": LOG, "title": "MACs per byte moved"},
            "y": {"field": "rate", "type": "quantitative", "scale": LOG, "title": "achieved GMACs/s"},
        },
        "layer": [
            {"data": {"values": roofs}, "mark": {"type": "line", "style": "roof"}},
            {
                "data": {"values": roofs[-1:]},
                "mark": {"type": "text", "align": "right", "dy": -8, "text": "measured peaks"},
            },
            {"mark": {"type": "point", "filled": True, "size": 70}, "encoding": {**look(points), "tooltip": tooltip}},
            LABELS,
        ],
    }
    caption = (
        f"{roof.machine}: measured peak {roof.peak / 1e9:.0f} GMACs/s, copy bandwidth {roof.bandwidth / 1e9:.1f} "
        f"GB/s, {roof.dtype}. Bytes are those that operators read and write, were every one to go to memory."
    )
    return Chart(f"roofline-{roof.machine}-{roof.dtype}", f"Roofline of {roof.machine}", caption, spec)
