"""Shares of time, MACs, parameters and activations by kind of operator and by stage."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from bench.metrics import METRICS
from bench.names import label, sized
from bench.profile.breakdown import AMOUNTS, PREFIX
from bench.reporting.breakdowns import Breakdown, breakdowns
from bench.reporting.charts.spec import PAGE, Chart, Spec, Theme
from bench.reporting.data import Report

SERIES = 8
"""Parts of one bar at most; the smallest of more are shown together."""
REST = "smaller parts"
COLOURS = ("#0077aa", "#ee9900", "#55bbee", "#aa3300", "#9900ff", "#bbdd88", "#bb9999", "#663333")
"""Colour-blind readers can tell them apart too, on white as on black."""
NAMES = {of: METRICS[f"{PREFIX}/{of}"].heading for of in AMOUNTS}

OPERATORS = ("pointwise", "depthwise", "other convolution", "ContMix", "matrix product", "norm", "other")
"""Kinds of operators, each with its colour in every chart; `bench.profile.operators` names them."""
STAGES = (
    (re.compile(r"sub_blocks3|high_level_proj"), "focus stage 3"),
    (re.compile(r"sub_blocks4|patch_embedx"), "focus stage 4"),
    (re.compile(r"(?:patch_embed|blocks|norm)(\d)"), "stage {}"),
    (re.compile(r"stem.*"), "stage 1"),
    (re.compile(r"(?:downsample_layers|stages|layers)[._]?(\d)"), "stage {}"),
    (re.compile(r"norm|global_pool|head.*|classifier|fc|norm_pre"), "head"),
)
"""What the modules of a network are parts of, in the network's words."""
COUNTED_FROM_0 = re.compile(r"(?:downsample_layers|stages|layers)")
LAST = ("head", "between stages", REST)


def charts(report: Report, theme: Theme = PAGE) -> list[Chart]:
    """A chart for each breakdown that is recorded."""
    return [_chart(b, theme) for b in breakdowns(report.evidence.all)]


def _chart(b: Breakdown, theme: Theme) -> Chart:
    panels, points = [], []
    for by in ("operator", "stage"):
        grouped = {of: _grouped(by, b.parts[by, of]) for of in AMOUNTS if b.parts.get((by, of))}
        order = _order(by, grouped)
        for of, parts in grouped.items():
            total = sum(parts.values())
            points += [
                {"by": by, "part": part, "of": of, "what": NAMES[of], "share": value / total, "value": value,
                 "place": order.index(part)}
                for part, value in parts.items() if total
            ]  # fmt: skip
        panels.append(_panel(by, order, theme))
    spec = {"data": {"values": points}, "vconcat": panels, "resolve": {"scale": {"color": "independent"}}}
    form = "" if b.form == "deploy" else f"{b.form} form, "
    caption = f"{label(b.model)}, {form}at {sized(b.resolution)}, {b.under}, on {b.machine}: where time, MACs, "
    caption += "parameters and activations are. Operators were timed one by one."
    name = f"breakdown-{b.model}-{b.form}-{b.resolution}-{b.machine}"
    title = f"Breakdown of {label(b.model)} at {sized(b.resolution)}"
    return Chart(name, title, caption, spec, further=True)


def _grouped(by: str, parts: Mapping[str, float]) -> dict[str, float]:
    """Parts under the names that are shown."""
    made: dict[str, float] = {}
    focus = any(part.startswith("sub_blocks") for part in parts)
    for part, value in parts.items():
        name = _stage(part, focus) if by == "stage" else part
        made[name] = made.get(name, 0.0) + value
    return made


def _stage(part: str, focus: bool) -> str:
    """The stage that a module belongs to; the fourth one of a network that focuses is its overview."""
    for pattern, name in STAGES:
        if match := pattern.fullmatch(part):
            number = int(match[1]) + bool(COUNTED_FROM_0.match(part)) if match.groups() else 0
            return "overview (stage 4)" if focus and number == 4 else name.format(number)
    return part


def _order(by: str, grouped: dict[str, dict[str, float]]) -> list[str]:
    """The parts as shown: kinds in their own order, stages in the network's; of too many the smallest are joined."""
    shares: dict[str, float] = {}
    for parts in grouped.values():
        for part, value in parts.items():
            shares[part] = shares.get(part, 0.0) + value / (sum(parts.values()) or 1.0)
    if len(shares) > SERIES:
        small = sorted(shares, key=lambda part: shares[part])[: len(shares) - SERIES + 1]
        for parts in grouped.values():
            rest = sum(parts.pop(part, 0.0) for part in small)
            parts[REST] = rest
        shares = {part: share for part, share in shares.items() if part not in small} | {REST: 0.0}
    present = list(shares)
    if by == "operator":
        known = [kind for kind in OPERATORS if kind in present]
        return [*known, *(kind for kind in present if kind not in known)]
    return sorted(present, key=lambda part: (LAST.index(part) if part in LAST else -1, _number(part, present)))


def _number(part: str, present: Sequence[str]) -> tuple[int, int]:
    """A stage's place: the overview comes between the stages and those that focus."""
    digits = re.search(r"\d+", part)
    number = int(digits[0]) if digits and re.match(r"stage|overview|focus", part) else len(present)
    return part.startswith("focus"), number if digits else present.index(part)


def _colours(parts: Iterable[str]) -> dict[str, str]:
    """A colour for each part; kinds of operators, and what is no stage, have theirs in every chart."""
    fixed = {kind: COLOURS[i] for i, kind in enumerate(OPERATORS)}
    fixed |= {part: COLOURS[len(COLOURS) - len(LAST) + i] for i, part in enumerate(LAST, 1) if part != REST}
    made = {part: fixed[part] for part in parts if part in fixed}
    free = [colour for colour in COLOURS if colour not in made.values()]
    return {part: made[part] if part in made else free.pop(0) for part in parts}


def _panel(by: str, order: Sequence[str], theme: Theme) -> Spec:
    colours = _colours(order)
    return {
        "title": f"by {by}",
        "transform": [{"filter": f"datum.by == '{by}'"}],
        "width": theme.width,
        "height": {"step": 19},
        "mark": {"type": "bar", "height": {"band": 0.82}},
        "encoding": {
            "y": {"field": "what", "type": "nominal", "title": None, "sort": list(NAMES.values())},
            "x": {
                "field": "share",
                "type": "quantitative",
                "axis": {"format": "%", "tickCount": 5},
                "scale": {"domain": [0, 1]},
                "title": "Share of the whole",
            },
            "color": {
                "field": "part",
                "type": "nominal",
                "title": None,
                "scale": {"domain": list(colours), "range": list(colours.values())},
                "legend": {"columns": 3, "symbolType": "square"},
            },
            "order": {"field": "place", "type": "quantitative"},
            "tooltip": [{"field": "part"}, {"field": "what", "title": "of"}, {"field": "share", "format": ".1%"}],
        },
    }
