"""A model's time, MACs, parameters and activations by stage and by kind of operator, as records and tables.

Importing this imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from bench.metrics import BREAKDOWN, METRICS
from bench.records.record import Record

if TYPE_CHECKING:
    from bench.profile.operators import Operator

PREFIX = BREAKDOWN
"""The beginning of a part's metric, `breakdown/<by>/<of>/<part>`: `by` is operator or stage, `of` one of `AMOUNTS`."""

BYTES = "bytes_moved"
"""Metric: the bytes that the operators read and write for one image, if all of them went to memory."""

AMOUNTS = tuple(name.removeprefix(f"{PREFIX}/") for name in METRICS if name.startswith(f"{PREFIX}/"))
CALLS = 7
METHOD = f"each operator alone, synchronised, median of {CALLS} calls; per image"


def figures(operators: Sequence[Operator], batch: int) -> Iterator[dict[str, Any]]:
    """Metric, value and method of the parts, and of the bytes moved; per image, except for parameters."""
    for by in ("operator", "stage"):
        parts: dict[str, dict[str, float]] = {}
        for op in operators:
            part = parts.setdefault(op.kind if by == "operator" else op.stage, dict.fromkeys(AMOUNTS, 0.0))
            part["time"] += op.median / batch
            part["macs"] += op.macs / batch
            part["params"] += op.params
            part["activations"] += op.activations / batch
        for name, amounts in parts.items():
            for of in AMOUNTS:
                yield {"metric": f"{PREFIX}/{by}/{of}/{name}", "value": amounts[of], "method": METHOD}
    moved = sum(op.bytes for op in operators) / batch
    yield {"metric": BYTES, "value": moved, "method": METRICS[BYTES].method}


def tables(records: Iterable[Record]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Tables by operator and by stage: a title, the headings, and a row for each part with its shares of the whole."""
    models: dict[tuple[str, str, str], dict[str, dict[str, dict[str, float]]]] = {}
    for r in records:
        if r.metric.startswith(f"{PREFIX}/") and r.value is not None:
            _, by, of, part = r.metric.split("/", 3)
            model = models.setdefault((r.model, r.form, r.resolution), {})
            model.setdefault(by, {}).setdefault(part, {})[of] = r.value
    amounts_shown = [METRICS[f"{PREFIX}/{of}"] for of in AMOUNTS]
    headings = [text for of in amounts_shown for text in (of.title.removeprefix("time "), "%")]
    made = []
    for (name, form, resolution), by_what in models.items():
        for by, parts in by_what.items():
            totals = {of: sum(amounts.get(of, 0.0) for amounts in parts.values()) for of in AMOUNTS}
            rows = []
            for part, amounts in [*sorted(parts.items(), key=lambda i: -i[1].get("time", 0)), ("all", totals)]:
                row = [part]
                for of, shown in zip(AMOUNTS, amounts_shown, strict=True):
                    row += [f"{amounts.get(of, 0.0) / shown.divisor:.2f}"]
                    row += [f"{amounts.get(of, 0.0) / totals[of]:.1%}" if totals[of] else ""]
                rows.append(row)
            made.append((f"{name}, {form} form, {resolution}, by {by}", [by, *headings], rows))
    return made


def render(records: Sequence[Record], style: str) -> str:
    """The tables as text: table, markdown or latex."""
    from bench.render import table

    parts = []
    for title, headings, rows in tables(records):
        text = table(headings, rows, style, words=1, caption=title)
        parts.append(text if style == "latex" else f"{title}\n\n{text}")
    return "\n\n".join(parts)
