"""What an evaluation gives: records, a table, comparisons, and what makes a row invalid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from bench.accuracy import predictions as pred
from bench.accuracy.paired import Comparison, compare, wilson
from bench.accuracy.predictions import Predictions
from bench.evaluation import report as printed
from bench.evaluation.report import Cell, last_columns
from bench.models import family_of
from bench.published import beside, shown
from bench.records.record import Record

NAMED = 3  # unreadable images named in a reason
FINE_TUNED = "weights fine-tuned"  # how the note begins of a row whose weights are of a file for its size


@dataclass(frozen=True)
class Seen:
    """What a pass saw of the images.

    Args:
        names: of all images.
        unreadable: index of an image -> why it cannot be read, as far as it was met in this pass.
        allow_missing: how many unreadable images leave a row valid.
        real: each image's ReaL labels, where they are asked for.
        notes: on the set as a whole.
    """

    names: Sequence[str]
    unreadable: Mapping[int, str]
    allow_missing: int = 0
    real: Sequence[tuple[int, ...]] | None = None
    notes: tuple[str, ...] = ()


def reasons(p: Predictions, seen: Seen) -> tuple[str, ...]:
    """Why a row is no figure of this model on this set."""
    why = []
    lost = np.flatnonzero(p.rows["status"] == pred.UNREADABLE).tolist()
    if len(lost) > seen.allow_missing:
        named = "; ".join(
            f"{seen.names[i]} ({seen.unreadable[i]})" if i in seen.unreadable else seen.names[i] for i in lost[:NAMED]
        )
        more = f"; {len(lost) - NAMED} more" if len(lost) > NAMED else ""
        why.append(f"{len(lost)} unreadable images: {named}{more}")
    broken = np.flatnonzero(p.rows["status"] == pred.NOT_FINITE).tolist()
    if broken:
        why.append(f"outputs are not finite for {len(broken)} images, {seen.names[broken[0]]} first")
    if str(p.header["weights"]).startswith("random"):
        why.append("random weights: no figure of this model")
    return tuple(why)


def notes(p: Predictions, names: Sequence[str]) -> tuple[str, ...]:
    """What a reader should know of a valid row: images let through as missing, weights trained at another size, or
    fine-tuned for this one."""
    said = []
    lost = np.flatnonzero(p.rows["status"] == pred.UNREADABLE).tolist()
    if lost:
        said.append(f"{len(lost)} unreadable images left out: {', '.join(names[i] for i in lost[:NAMED])}")
    trained, size = p.header.get("trained_at"), p.header["resolution"]
    if trained and str(trained) != size:
        said.append(f"weights trained at {trained}, evaluated at {size}")
    elif p.header.get("fine_tuned"):
        said.append(f"{FINE_TUNED} at {size}, another file than those trained at 224")
    return tuple(said)


def correct_real(p: Predictions, real: Sequence[tuple[int, ...]]) -> tuple[int, int]:
    """How many images' first prediction is one of their ReaL labels, of how many that have any."""
    judged = [(int(row["top5"][0]) in labels) for row, labels, ok in zip(p.rows, real, p.evaluated, strict=True)
              if labels and ok]  # fmt: skip
    return sum(judged), len(judged)


def records(p: Predictions, recipe: str, seen: Seen) -> list[Record]:
    """top1 and top5 in %, with 95 % intervals, and top1_real where there are ReaL labels."""
    h, n = p.header, int(p.evaluated.sum())
    counts = {"top1": (int(p.correct(1).sum()), n), "top5": (int(p.correct(5).sum()), n)}
    if seen.real is not None:
        counts["top1_real"] = correct_real(p, seen.real)
    bad = reasons(p, seen)
    made = []
    for metric, (right, of) in counts.items():
        record = Record(
            model=h["model"],
            form=h["form"],
            metric=metric,
            value=None,
            unit="%",
            resolution=h["resolution"],
            method=f"{recipe}; 95 % interval by Wilson",
            batch=h["batch"],
            dtype=h["dtype"],
            layout=h["layout"],
            compile="default" if h["compile"] else "none",
            backend=h.get("backend", ""),
            device=h["device"],
            torch=h["torch"],
            timm=h["timm"],
            weights=h["weights"],
            dataset=f"{h['dataset']}:{h['manifest']}",
            notes=notes(p, seen.names) + seen.notes,
        )
        if not of:
            made.append(record.failed("no image could be read", *bad))
            continue
        lo, hi = wilson(right, of)
        share = 100 * right / of
        made.append(replace(record, value=share, lo=100 * lo, hi=100 * hi, n=of, valid=not bad, reasons=bad))
    return made


def comparisons(finished: Sequence[Predictions], baseline: str) -> list[Comparison]:
    """Each model against the baseline at equal resolution and form, and the two forms of each model."""
    pairs = []
    for a, b in combinations(finished, 2):
        x, y = a.header, b.header
        if x["resolution"] != y["resolution"]:
            continue
        if x["model"] == y["model"]:
            pairs.append(compare(a, b) if x["form"] == "deploy" else compare(b, a))
        elif baseline in (x["model"], y["model"]) and x["form"] == y["form"]:
            pairs.append(compare(b, a) if x["model"] == baseline else compare(a, b))
    return pairs


def rows(made: Sequence[Record]) -> list[dict[str, Cell]]:
    """A row for each model, form and resolution."""
    table: dict[tuple[str, str, str], dict[str, Cell]] = {}
    for r in made:
        recipe = r.method.partition(";")[0].partition(" ")[2]
        row = table.setdefault((r.model, r.form, r.resolution), {"model": r.model, "form": r.form})
        row |= {"size": r.resolution, "recipe": recipe, f"{r.metric} %": r.value}
        if r.metric == "top1":
            row["95 %"] = "" if r.lo is None else f"{r.lo:.2f}-{r.hi:.2f}"
            own = [note for note in r.notes if note.startswith(FINE_TUNED)]
            release = family_of(r.model).fine_tuned(r.model, int(r.resolution)) if own else None
            row["published"] = shown(beside("top1", r.model, r.resolution, weights=release.file if release else ""))
    of_top1 = [r for r in made if r.metric == "top1"]
    return [row | last_columns(r) for row, r in zip(table.values(), of_top1, strict=True)]


def render(made: Sequence[Record], compared: Sequence[Comparison], environment: dict[str, Any], style: str) -> str:
    """The table in a style, and below it what makes rows invalid, the comparisons, and the machine."""
    invalid = [f"{r.model} {r.form} {r.resolution} is not valid: {why}" for r in made for why in r.reasons]
    of_all = [note for note in made[0].notes if all(note in r.notes for r in made)]
    noted = [f"{r.model} {r.form} {r.resolution}: {note}" for r in made for note in r.notes if note not in of_all]
    lines = [*dict.fromkeys([*invalid, *noted]), *map(str, compared), made[0].dataset, *of_all]
    return printed.render(made, rows(made), lines, [asdict(c) for c in compared], environment, style)
