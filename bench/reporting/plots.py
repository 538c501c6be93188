"""Figures for papers and talks by matplotlib: PNG, SVG and PDF of what the page draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.metrics import METRICS
from bench.reporting.breakdowns import QUANTITIES, Breakdown, Roofline, breakdowns, rooflines
from bench.reporting.charts import COLOURS, FAMILIES
from bench.reporting.data import Report
from bench.reporting.readme import headline
from bench.reporting.rows import Row, main_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")
DPI = 160
MARKERS = ("o", "s", "^", "D", "P")
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "overlock-bench",  # equal figures are equal files
    "pdf.fonttype": 42,
}


def figures(report: Report, folder: Path) -> list[Path]:
    """Write all figures below `folder`; returns their paths. Those without data are left out."""
    drawn: dict[str, Callable[[], Figure]] = {}
    if any(row.published_top1 for row in report.rows):
        drawn["accuracy-cost"] = partial(accuracy_cost, report)
    for machine in sorted({row.machine for row in sweep_rows(report)}):
        drawn[f"resolutions-{machine}"] = partial(resolutions, report, machine)
    for roof in rooflines(report):
        drawn[f"roofline-{roof.machine}-{roof.dtype}"] = partial(roofline, roof)
    for b in breakdowns(report.evidence.all):
        drawn[f"breakdown-{b.model}-{b.form}-{b.resolution}-{b.machine}"] = partial(breakdown, b)
    written = []
    for name, draw in drawn.items():
        written += save(draw(), folder / name)
    return written


def save(figure: Figure, stem: Path, formats: Sequence[str] = FORMATS, fingerprint: str = "") -> list[Path]:
    """Write a figure as `stem.png`, ..., with the fingerprint of its data in SVG's description."""
    import matplotlib as mpl

    stem.parent.mkdir(parents=True, exist_ok=True)
    written = []
    with mpl.rc_context(STYLE):
        for kind in formats:
            path = stem.with_name(f"{stem.name}.{kind}")
            metadata: dict[str, Any] = {
                "svg": {"Date": None, "Description": fingerprint},
                "pdf": {"CreationDate": None},
            }
            figure.savefig(path, dpi=DPI, bbox_inches="tight", metadata=metadata.get(kind))
            written.append(path)
    return written


def _figure(columns: int, width: float = 3.4, height: float = 2.9) -> tuple[Figure, list[Axes]]:
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width * columns, height), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, columns, squeeze=False)[0]
    return figure, list(axes)


def _scatter(ax: Axes, points: Sequence[tuple[Row, float, float]]) -> None:
    for family, colour, marker in zip(FAMILIES, COLOURS, MARKERS, strict=True):
        mine = sorted((x, y, row.model) for row, x, y in points if row.family == family)
        if mine:
            xs, ys = [x for x, _, _ in mine], [y for _, y, _ in mine]
            ax.plot(xs, ys, marker=marker, color=colour, label=family, linewidth=0.8, markersize=5)
        for x, y, model in mine:
            size = model.partition("_")[2] or model
            ax.annotate(size.upper(), (x, y), textcoords="offset points", xytext=(0, 5), ha="center", fontsize=7)


def accuracy_cost(report: Report) -> Figure:
    """Published top-1 at 224 against MACs, and against throughput of the machine with most headline rows."""
    fast = headline(report)
    figure, axes = _figure(2 if fast else 1)
    counted: dict[str, Row] = {}
    for row in report.rows:
        if row.resolution == "224" and row.form == "deploy" and row.published_top1 and row.value("macs"):
            counted.setdefault(row.model, row)
    panels = [(axes[0], list(counted.values()), "macs")] + ([(axes[1], fast, "throughput")] if fast else [])
    for ax, rows, metric in panels:
        points = [
            (row, value / METRICS[metric].divisor, float(row.published_top1[0]))
            for row in rows
            if row.published_top1 and (value := row.value(metric)) and row.cells[metric].record.valid
        ]
        _scatter(ax, points)
        ax.set_xscale("log")
        _plain_numbers(ax.xaxis)
        where = f", {fast[0].device} {fast[0].dtype}" if metric == "throughput" else ""
        ax.set_xlabel(f"{METRICS[metric].heading} ({METRICS[metric].shown_unit}{where})")
    axes[0].set_ylabel("published ImageNet-1K top-1 at 224 (%)")
    axes[0].legend(frameon=False, fontsize=8)
    return figure


def sweep_rows(report: Report) -> list[Row]:
    """Rows of models that were timed at two resolutions or more, under the same conditions but the batch."""
    rows = [r for r in main_rows(report.rows) if r.task == "classification" and r.form == "deploy"]
    rows = [r for r in rows if "throughput" in r.cells and r.cells["throughput"].record.valid]
    count: dict[tuple[str, ...], set[str]] = {}
    for row in rows:
        count.setdefault((row.machine, row.model, row.under), set()).add(row.resolution)
    return [r for r in rows if len(count[r.machine, r.model, r.under]) > 1]


def resolutions(report: Report, machine: str) -> Figure:
    """Throughput and memory against the image's side."""
    figure, axes = _figure(2)
    rows = [row for row in sweep_rows(report) if row.machine == machine]
    for ax, metric in zip(axes, ("throughput", "memory"), strict=True):
        lines: dict[tuple[str, ...], list[tuple[float, float]]] = {}
        for row in rows:
            if row.value(metric):
                value = row.cells[metric].value / METRICS[metric].divisor
                batch = str(row.batch) if metric == "memory" else ""  # only equal batches take comparable memory
                key = (row.model, row.family, row.under, batch)
                lines.setdefault(key, []).append((row.pixels**0.5, value))
        for (model, family, *_), line in lines.items():
            i = FAMILIES.index(family) if family in FAMILIES else len(FAMILIES) - 1
            ax.plot(*zip(*sorted(line), strict=True), marker=MARKERS[i], color=COLOURS[i], label=model, linewidth=1)
        ax.set_xlabel("side of the image (pixels)")
        ax.set_ylabel(f"{METRICS[metric].heading} ({METRICS[metric].shown_unit})")
    axes[0].set_yscale("log")
    _plain_numbers(axes[0].yaxis)
    axes[0].legend(frameon=False, fontsize=7)
    return figure


def _plain_numbers(axis: Axis) -> None:
    """Ticks of a logarithmic axis as plain numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def roofline(roof: Roofline) -> Figure:
    """Achieved MAC rate against MACs per byte, under the machine's measured peaks."""
    figure, (ax,) = _figure(1, 4.2, 3.2)
    low, high = min(p.intensity for p in roof.points) / 2, max(p.intensity for p in roof.points) * 2
    xs = sorted({low, high, min(max(roof.peak / roof.bandwidth, low), high)})
    ax.plot(xs, [min(roof.peak, x * roof.bandwidth) / 1e9 for x in xs], "k--", linewidth=1, label="measured peaks")
    for p in roof.points:
        i = FAMILIES.index(p.family) if p.family in FAMILIES else len(FAMILIES) - 1
        ax.plot(p.intensity, p.rate / 1e9, MARKERS[i], color=COLOURS[i], markersize=5)
        ax.annotate(p.model, (p.intensity, p.rate / 1e9), textcoords="offset points", xytext=(0, 5), fontsize=6)
    ax.set(xscale="log", yscale="log", xlabel="MACs per byte moved", ylabel="achieved GMACs/s")
    ax.legend(frameon=False, fontsize=7)
    return figure


def breakdown(b: Breakdown) -> Figure:
    """Shares of time, MACs, parameters and activations: by kind of operator, and by stage."""
    figure, axes = _figure(2, 4.4, 2.6)
    for ax, by in zip(axes, ("operator", "stage"), strict=True):
        parts = list(dict.fromkeys(part for of in QUANTITIES for part in b.parts.get((by, of), {})))
        left = [0.0] * len(QUANTITIES)
        for i, part in enumerate(parts):
            shares = [_share(b.parts.get((by, of), {}), part) for of in QUANTITIES]
            ax.barh(QUANTITIES, shares, left=left, label=part, color=f"C{i % 10}", hatch="//" if i >= 10 else None)
            left = [x + share for x, share in zip(left, shares, strict=True)]
        ax.set(xlabel="share", title=f"{b.model}, by {by}")
        ax.invert_yaxis()
        ax.legend(frameon=False, fontsize=6, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    return figure


def _share(parts: dict[str, float], part: str) -> float:
    total = sum(parts.values())
    return parts.get(part, 0.0) / total if total else 0.0
