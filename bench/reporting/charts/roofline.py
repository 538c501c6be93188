"""The achieved MAC rate against MACs per byte moved, under the machine's measured peaks."""

from __future__ import annotations

from dataclasses import replace

from bench.reporting.breakdowns import Roofline, rooflines
from bench.reporting.charts.axes import Axis
from bench.reporting.charts.panel import Channel, labelled, markers, panel
from bench.reporting.charts.spec import PAGE, Chart, Spec, Theme, described
from bench.reporting.data import Report
from bench.reporting.readme import elsewhere

SLOPE = 5.0  # how far below the ridge the roof begins, as a factor of the intensity; above its slope is a note


def charts(report: Report, theme: Theme = PAGE) -> list[Chart]:
    """A chart for each machine and dtype whose peaks are recorded."""
    return [replace(_chart(roof, theme), further=elsewhere(report, roof.machine)) for roof in rooflines(report)]


def _chart(roof: Roofline, theme: Theme) -> Chart:
    points = [{**described(p.row), "intensity": p.intensity, "rate": p.rate / 1e9} for p in roof.points]
    ridge, peak = roof.peak / roof.bandwidth, roof.peak / 1e9
    low = min(ridge / SLOPE, *(p.intensity / 1.3 for p in roof.points))
    high = max(ridge * SLOPE, *(p.intensity * 1.3 for p in roof.points))
    corners = [{"intensity": at, "rate": min(roof.peak, at * roof.bandwidth) / 1e9} for at in (low, ridge, high)]
    rates = [point["rate"] for point in (*corners, *points)]
    x = Channel("intensity", "MACs per byte moved", Axis.around((low, high), theme.width, 6, log=True))
    y = Channel("rate", "Achieved rate (GMACs/s)", Axis.around(rates, theme.height, 22, log=True, up=True))
    labelled(points, x, y, theme.text, [corners])
    tooltip: list[Spec] = [{"field": "name", "title": "model"}, {"field": "resolution"}]
    tooltip += [{"field": name, "format": ".3~g"} for name in ("intensity", "rate")]
    below = [
        {"data": {"values": corners}, "mark": {"type": "line", "style": "roof"}},
        _note(corners[2], f"measured peak {peak:.0f} GMACs/s, {roof.dtype}", {"align": "right", "dy": -8}),
        _note(
            {"intensity": low, "rate": peak},
            ["measured", "copy bandwidth", f"{roof.bandwidth / 1e9:.1f} GB/s"],
            {"align": "left", "dx": 3, "dy": 12},
        ),
    ]
    spec = panel(points, x, y, below, [markers(points, 60, tooltip)])
    caption = (
        f"{roof.machine}: the roof is the measured peak of {peak:.0f} GMACs/s ({roof.dtype}) and, where it slopes, the "
        f"measured copy bandwidth of {roof.bandwidth / 1e9:.1f} GB/s. Bytes are those that operators read and write, "
        "were every one to go to memory."
    )
    return Chart(f"roofline-{roof.machine}-{roof.dtype}", f"Roofline of {roof.machine}", caption, spec)


def _note(at: dict[str, float], text: str | list[str], place: Spec) -> Spec:
    return {"data": {"values": [at]}, "mark": {"type": "text", "style": "note", "text": text, **place}}
