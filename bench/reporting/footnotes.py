"""The lines below a table of models: conditions, what columns mean, doubts, sources of published figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from bench.metrics import METRICS
from bench.reporting.rows import Row
from bench.reporting.tables import DIRTY, WORDS, columns, common_base, contradictions, shared, varying
from bench.tasks import FIXED_PATH


def footnotes(rows: Sequence[Row], machine: str, sources: bool, verbose: bool) -> list[str]:
    """All of them, for a table that stands alone; without `verbose`, what a reader of the figures must know."""
    lines = [f"Measured on {'; '.join(filter(None, (machine, shared(rows))))}."]
    if any(common_base(rows, metric) for metric in columns(rows)):
        lines.append(
            "ratio: under the same conditions; in brackets the 95 % interval over rounds in which the sides took turns."
        )
    if verbose:
        lines += [METRICS[metric].meaning for metric in columns(rows) if METRICS[metric].meaning]
    if any(row.task == "detection" for row in rows):
        lines.append(FIXED_PATH)
    if any(row.published(metric) for row in rows for metric in (*columns(rows), "top1")):
        where = "below" if sources else "by --sources"
        lines.append(f"published: by others, not measured here; the sources are listed {where}.")
    lines += [*contradictions(rows), *doubts(rows, ratios=verbose)]
    return [*lines, *(sources_of(rows) if sources else [])]


def doubts(rows: Sequence[Row], ratios: bool = False) -> list[str]:
    """Reasons why figures are not valid or have no value, and notes (those of ratios if asked for); each once.

    What holds for a metric of all rows names no row; what does not, names them by what tells them apart.
    """
    whole = "*"
    of: dict[str, dict[str, list[str]]] = {}  # text -> metric -> rows
    measured = Counter(metric for row in rows for metric in row.cells)
    for row in rows:
        for metric, item in row.cells.items():
            r = item.record
            noted = not METRICS[metric].cost and (ratios or not r.against)
            for text in (*r.reasons, *(r.notes if noted else ())):
                of.setdefault(text, {}).setdefault(metric, []).append(name_of(row, rows))
    lines: dict[tuple[str, str], list[str]] = {}  # rows, text -> metrics
    for text, metrics in of.items():
        for metric, names in metrics.items():
            all_rows = len(rows) > 1 and len(names) == measured[metric]
            lines.setdefault((whole if all_rows else ", ".join(dict.fromkeys(names)), text), []).append(metric)
    return [
        f"{'' if who == whole else f'{who} '}{', '.join(metrics)}: {text}" for (who, text), metrics in lines.items()
    ]


def dirty(rows: Sequence[Row]) -> list[str]:
    """What the mark of a dirty tree means, where a figure has it."""
    marked = any(placed.record.dirty for row in rows for placed in row.cells.values())
    return [f"{DIRTY} measured from a tree with uncommitted changes, which no commit can repeat."] if marked else []


def name_of(row: Row, rows: Sequence[Row]) -> str:
    """What a row is called among these: its model, and its conditions where rows differ in them."""
    return " ".join([row.model, *(WORDS[name].format(getattr(row, name) or "") for name in varying(rows))])


def sources_of(rows: Sequence[Row]) -> list[str]:
    """A line for each published figure of the table's metrics, and of top-1."""
    lines = ["Published figures:"]
    for metric in dict.fromkeys((*columns(rows), "top1")):
        for row in rows:
            for f in row.beside(metric):
                at = "" if metric == "params" else f" at {row.resolution}"
                figure = f"{f.network}{at}: {METRICS[metric].published_as} {f.text} {f.unit}"
                lines.append(f"  {figure} ({f.protocol}). {f.source}, {f.confidence}")
    return list(dict.fromkeys(lines))
