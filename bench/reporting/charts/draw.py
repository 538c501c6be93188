"""Charts as pictures, by vl-convert: SVG for the page; SVG, PNG and PDF for papers and talks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench import cli
from bench.reporting.charts import accuracy, breakdown, history, resolutions, roofline
from bench.reporting.charts.spec import PRINT, Spec, Theme, themed
from bench.reporting.data import Report

FORMATS = ("png", "svg", "pdf")
SCALE = 2  # dots of a PNG to a pixel of the chart


def check_installed() -> None:
    """Raises BadInput if what draws figures and fills the page is not installed."""
    cli.need("drawing", "report", "vl_convert", "jinja2")


def figures(report: Report, folder: Path) -> list[Path]:
    """Write all figures below `folder`; returns their paths. Those without data are left out."""
    cost = accuracy.figure(report)
    specs = {"accuracy-cost": cost} if cost else {}
    specs |= resolutions.figures(report)
    for module in (roofline, breakdown, history):
        specs |= {chart.name: chart.spec for chart in module.charts(report, PRINT)}
    return [path for name, spec in specs.items() for path in save(spec, folder / name)]


def save(spec: Spec, stem: Path, formats: Sequence[str] = FORMATS, fingerprint: str = "") -> list[Path]:
    """Write a figure as `stem.png`, ..., with the fingerprint of its data in SVG's description."""
    import vl_convert

    stem.parent.mkdir(parents=True, exist_ok=True)
    whole, version = themed(spec, PRINT), newest()
    written = []
    for kind in formats:
        path = stem.with_name(f"{stem.name}.{kind}")
        if kind == "svg":
            text = svg(spec, PRINT)
            start = text.index(">") + 1
            path.write_text(f"{text[:start]}<desc>{fingerprint}</desc>{text[start:]}\n", encoding="utf-8")
        elif kind == "png":
            path.write_bytes(vl_convert.vegalite_to_png(whole, vl_version=version, scale=SCALE))
        else:
            path.write_bytes(vl_convert.vegalite_to_pdf(whole, vl_version=version))
        written.append(path)
    return written


def svg(spec: Spec, theme: Theme) -> str:
    """The text of an SVG."""
    import vl_convert

    return str(vl_convert.vegalite_to_svg(themed(spec, theme), vl_version=newest()))


def newest() -> str:
    """The newest version of Vega-Lite that is installed: the one that its Vega is made for."""
    import vl_convert

    return str(vl_convert.get_vegalite_versions()[-1])
