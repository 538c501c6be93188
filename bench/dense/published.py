"""Published cost of dense models, with sources. Importing this imports no torch."""

from __future__ import annotations

import csv
import functools
import re

from bench.models import Entry
from bench.paths import data_file
from bench.published import METRICS, Figure

PROTOCOLS = {
    "upernet": r"UperNet",
    "maskrcnn": r"Mask R-CNN",
    "cascade": r"Cascade Mask R-CNN",
    "cascade_2fc": r"Cascade Mask R-CNN MS 3x$",
}
"""Head -> how the protocols of its figures begin."""

COUNTED_AT = {"upernet": "512x2048", "maskrcnn": "800x1280", "cascade": "800x1280", "cascade_2fc": "800x1280"}
LARGE_CROP = "640"  # figures of UperNet at 2560x640


@functools.cache
def _figures() -> tuple[tuple[str, Figure], ...]:
    """(head, figure) of each row on the cost of a dense model, in the file's order."""
    with data_file("published.csv").open(newline="", encoding="utf-8") as file:
        rows = [r for r in csv.DictReader(file) if r["metric"] in ("params", "flops") and r["resolution"] != LARGE_CROP]
    fields = ("model", "resolution", "metric", "value", "unit", "protocol", "source", "confidence")
    return tuple(
        (head, Figure(*(row[name] for name in fields)))
        for row in rows
        for head, pattern in PROTOCOLS.items()
        if re.match(pattern, row["protocol"])
        and not (head == "cascade" and re.match(PROTOCOLS["cascade_2fc"], row["protocol"]))
    )


def dense_figures(entry: Entry, head: str, metric: str, resolution: str) -> list[Figure]:
    """Published figures of `metric` (params, macs) of a model with a head, primary sources first.

    MACs are those at the resolution (height x width) that they were counted at.
    """
    if metric == "macs" and resolution != COUNTED_AT.get(head):
        return []
    found = [f for h, f in _figures() if h == head and f.model in entry.published and f.metric == METRICS.get(metric)]
    return sorted(found, key=lambda f: (f.confidence != "primary", entry.published.index(f.model)))
