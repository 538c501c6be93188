"""Which way of counting gives each published FLOPs figure: `python -m bench.cost.conventions`.

No source says which tool it counted with. Each figure is held against several conventions, the plainest first, and is
explained by the first that rounds to it, if that gives more than half of what the source prints of the family: of many
conventions and few digits some agree by chance. Where none does, the nearest is named with its distance.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import cli, render
from bench.cli import Parser
from bench.models import MODELS, Entry, chosen
from bench.published import Printed, Subject, most
from bench.published import published as all_published

CONVENTIONS: Mapping[str, str] = {
    "defined": "all convolutions, linear layers, matrix products and ContMix, deploy form without the auxiliary head",
    "counter of modules": "what hooks on modules see: biases, norms twice and pools too (bench.cost.modules)",
    "no aggregation": "the same without ContMix's aggregation, which runs in a kernel that counters cannot see",
    "no contmix": "the same without any of ContMix's products",
    "training form": "as `defined`, on the training form without the auxiliary head",
    "training form, auxiliary head": "as `defined`, on the training form with the auxiliary head",
    "fvcore default": "as `defined`, with norms, pooling and resizing as fvcore counts them by default",
    "fvcore default, no aggregation": "the same without ContMix's aggregation",
    "fvcore default, training form": "as `fvcore default`, on the training form without the auxiliary head",
}
"""Conventions tried, the plainest first, and what they count."""


@dataclass(frozen=True)
class Explanation:
    """A published figure and the convention that gives it; `nearest` where none does, with its relative distance."""

    figure: Printed
    resolution: str
    convention: str  # empty: none of ours
    nearest: str
    counted: int  # by the convention, or the nearest
    off: float  # counted over published, less one

    @property
    def verdict(self) -> str:
        return self.convention or "none of ours"


def rounds_to(counted: int, figure: Printed) -> bool:
    """Whether a count, printed with the figure's digits, is the figure."""
    decimals = figure.decimals
    return f"{counted / 1e9:.{decimals}f}" == f"{float(figure.text):.{decimals}f}"


def explain(
    figure: Printed, resolution: str, counts: Mapping[str, int], among: Collection[str] = tuple(CONVENTIONS)
) -> Explanation:
    """The first convention `among` these that rounds to the figure, or the nearest of all."""
    reproduced = next((name for name, counted in counts.items() if name in among and rounds_to(counted, figure)), "")
    nearest = reproduced or min(counts, key=lambda name: abs(counts[name] - figure.value))
    return Explanation(figure, resolution, reproduced, nearest, counts[nearest], counts[nearest] / figure.value - 1)


@functools.lru_cache(maxsize=64)
def counts(entry: Entry, resolution: tuple[int, int]) -> Mapping[str, int]:
    """MACs of one image by each convention that applies to the model; equal ones only by the plainest."""
    import torch

    from bench.cost.count import count_parts
    from bench.cost.modules import COUNTER, count_modules
    from bench.loading import create_on_meta

    structure = entry.family.structure
    network = create_on_meta(entry, **structure["deploy"]).eval()
    deploy = _Parts(count_parts(network, resolution))
    macs = {
        "defined": deploy.defined,
        COUNTER: count_modules([network], lambda: network(torch.empty(1, 3, *resolution, device="meta"))),
        "no aggregation": deploy.defined - deploy.aggregation,
        "no contmix": deploy.defined - deploy.contmix,
    }
    if "train" in structure:
        head = "aux_head" in structure["train"]
        without = {**structure["train"], **({"aux_head": False} if head else {})}
        training = _Parts(count_parts(create_on_meta(entry, **without), resolution))
        macs["training form"] = training.defined
        if head:
            model = create_on_meta(entry, **structure["train"]).train()
            macs["training form, auxiliary head"] = _Parts(count_parts(model, resolution)).defined
        macs["fvcore default, training form"] = training.total
    macs["fvcore default"] = deploy.total
    macs["fvcore default, no aggregation"] = deploy.total - deploy.aggregation
    plainest: dict[str, int] = {}
    for name in CONVENTIONS:
        if name in macs and macs[name] not in plainest.values():
            plainest[name] = macs[name]
    return plainest


class _Parts:
    """A count by operator: norms, pools and resizing apart."""

    def __init__(self, by_operator: Mapping[str, int]) -> None:
        from bench.cost.count import LEFT_OUT

        names = {name.partition("::")[2] for name in LEFT_OUT}
        self.total = sum(by_operator.values())
        self.defined = sum(n for name, n in by_operator.items() if name not in names)
        self.contmix = sum(n for name, n in by_operator.items() if name.startswith("contmix"))
        self.aggregation = by_operator.get("contmix aggregation", 0)


def published() -> list[tuple[Subject, Printed]]:
    """Every published FLOPs figure of a registered classifier, with what it is of."""
    return [
        (subject, figure)
        for subject, figures in all_published().items()
        if subject.metric == "macs" and subject.task == "classification" and subject.model in MODELS
        for figure in figures
        if figure.network in MODELS[subject.model].published  # MogaNet-T's other recipe aside
    ]


def explanations(models: Sequence[str] | None = None) -> list[Explanation]:
    """Every published FLOPs figure, explained; of the tables that `models` stand in, all figures are counted."""
    families = {MODELS[name].family.name for name in models or MODELS if name in MODELS}
    tables: dict[tuple[str, str], list[tuple[Subject, Printed, Mapping[str, int]]]] = {}
    for subject, figure in published():
        entry, side = MODELS[subject.model], int(subject.resolution)
        if entry.family.name in families:
            counted = counts(entry, (side, side))
            tables.setdefault((entry.family.name, figure.repository), []).append((subject, figure, counted))
    explained = []
    for rows in tables.values():
        given = Counter(name for _, f, counted in rows for name, n in counted.items() if rounds_to(n, f))
        among = [name for name, n in given.items() if most(n, len(rows))]
        wanted = [row for row in rows if models is None or row[0].model in models]
        explained += [explain(figure, subject.resolution, counted, among) for subject, figure, counted in wanted]
    return explained


def table(explained: Sequence[Explanation]) -> str:
    """A Markdown table of explanations."""
    rows: list[list[Any]] = [
        [e.figure.network, e.resolution, e.figure.text, e.verdict,
         f"{e.counted / 1e9:.3f}" + ("" if e.convention else f" ({e.nearest})"), f"{e.off:+.1%}",
         e.figure.repository]
        for e in explained
    ]  # fmt: skip
    headings = ["model", "size", "published G", "reproduced by", "counted G", "off", "source"]
    return render.table(headings, rows, "markdown")


def parser() -> Parser:
    p = Parser(prog="bench.cost.conventions", description=__doc__)
    p.add_argument("--models", nargs="+", metavar="MODEL", help="short names (default: all)")
    p.add_argument("--output", type=Path, metavar="FILE", help="write the table there too")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    explained = explanations([entry.name for entry in chosen(args.models)] if args.models else None)
    if not explained:
        raise cli.BadInput(f"no published FLOPs of {' '.join(args.models)}: the suite has {', '.join(MODELS)}")
    tally = Counter(e.verdict for e in explained)
    lines = [table(explained), "", *(f"- {name}: {what}" for name, what in CONVENTIONS.items()), ""]
    lines.append("; ".join(f"{name}: {n} of {len(explained)}" for name, n in tally.most_common()))
    print("\n".join(lines))
    if args.output:
        cli.write(args.output, "\n".join(lines))
    return cli.OK


if __name__ == "__main__":
    cli.run("cost.conventions", main)
