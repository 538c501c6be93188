"""Figures that papers, READMEs and result files state, with their sources. Facts of others: never shown as ours."""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterable
from dataclasses import dataclass

from bench.models import Entry
from bench.paths import data_file

METRICS = {"params": "params", "macs": "flops", "top1": "top1"}
"""Our metric -> the name that published figures go by ("FLOPs" of papers are multiply-adds)."""

_SCALE = {"M": 1e6, "G": 1e9, "count": 1.0, "%": 1.0}


@dataclass(frozen=True)
class Figure:
    """One published figure. `text` is the value as printed there, `value` in whole units (parameters, MACs, %)."""

    model: str
    resolution: str
    metric: str
    text: str
    unit: str
    protocol: str
    source: str
    confidence: str

    @property
    def value(self) -> float:
        return float(self.text) * _SCALE[self.unit]

    def agrees(self, other: Figure) -> bool:
        """Whether both may be the same number, one of them rounded further."""
        return abs(self.value - other.value) <= max(self._rounding(), other._rounding()) * (1 + 1e-9)

    def _rounding(self) -> float:
        decimals = len(self.text.partition(".")[2])
        return 0.5 * 10.0**-decimals * _SCALE[self.unit]


@functools.cache
def _figures() -> tuple[Figure, ...]:
    """Rows on classification networks, in the file's order."""
    with data_file("published.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["task"] in ("classification", "params")]
    wanted = set(METRICS.values())
    return tuple(
        Figure(
            row["model"],
            row["resolution"],
            row["metric"],
            row["value"],
            row["unit"],
            row["protocol"],
            row["source"],
            row["confidence"],
        )
        for row in rows
        if row["metric"] in wanted or row["metric"].startswith("params_")
    )


def all_figures() -> tuple[Figure, ...]:
    """All published figures of classifiers, in the file's order."""
    return _figures()


def figures(entry: Entry, metric: str, resolution: str) -> list[Figure]:
    """Published figures of `metric` (params, macs, top1) for a model at `resolution`, primary sources first.

    Cost is the architecture's, whatever it was trained on; top-1 is that of the weights that the entry's recipe is for.
    Published cost is of the deploy form.
    """
    names = entry.published[:1] if metric == "top1" else entry.published
    found = [
        figure
        for figure in _figures()
        if figure.model in names
        and figure.metric == METRICS[metric]
        and figure.unit != "count"
        and (metric == "params" or figure.resolution == resolution)
    ]
    return sorted(found, key=lambda f: (f.confidence != "primary", names.index(f.model)))


def exact_params(name: str) -> dict[str, int]:
    """Parameters counted on the released structure, by the published file's metric (`params_deploy`, ...)."""
    return {f.metric: int(f.text) for f in _figures() if f.model == name and f.unit == "count"}


def distinct(found: Iterable[Figure]) -> list[Figure]:
    """The figures that contradict each other: each one that agrees with none before it."""
    kept: list[Figure] = []
    for figure in found:
        if not any(figure.agrees(other) for other in kept):
            kept.append(figure)
    return kept
