"""The accuracy tier: two evaluations of the same images, compared image by image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bench.accuracy.paired import compare, label
from bench.accuracy.predictions import NOT_FINITE, Predictions, read
from bench.cli import BadInput
from bench.gates.verdict import INVALID, OK, REGRESSION, UNDECIDED, Judgement

MARGIN = 0.05
"""Percentage points of top-1 within which the same weights, run again, agree."""

CONDITIONS = ("task", "recipe", "dataset", "manifest", "classes", "dtype")
"""What must be equal of two evaluations; code, libraries, batch and device may differ: that is what is judged."""


def collect(path: Path) -> dict[str, Predictions]:
    """Model, form and resolution -> the predictions in a file, or the newest ones in a folder.

    Raises:
        BadInput: if there are none.
    """
    files = sorted(path.rglob("predictions.npz"), key=lambda f: f.stat().st_mtime) if path.is_dir() else [path]
    kept = [read(file) for file in files]
    if not kept:
        raise BadInput(f"{path}: no predictions there; python -m bench.top1 keeps some under its --results")
    return {label(predictions): predictions for predictions in kept}


def judge(ours: Mapping[str, Predictions], theirs: Mapping[str, Predictions]) -> list[Judgement]:
    """Each of our evaluations against the recorded one of the same model, form and resolution."""
    return [_judge(name, predictions, theirs.get(name)) for name, predictions in ours.items()]


def _judge(name: str, ours: Predictions, theirs: Predictions | None) -> Judgement:
    if theirs is None:
        return Judgement(name, "top1", INVALID, {}, "nothing recorded to compare with")
    differ = [k for k in CONDITIONS if ours.header.get(k) != theirs.header.get(k)]
    if differ:
        differences = "; ".join(f"{key} {ours.header.get(key)} against {theirs.header.get(key)}" for key in differ)
        return Judgement(name, "top1", INVALID, {}, differences)
    broken = [int((side.rows["status"] == NOT_FINITE).sum()) for side in (ours, theirs)]
    if any(broken):  # both sides would agree on them
        reason = f"logits that are not finite: of {broken[0]} images here, of {broken[1]} in the recorded evaluation"
        return Judgement(name, "top1", INVALID, {}, reason)
    comparison = compare(ours, theirs)
    verdict = OK if comparison.lo >= -MARGIN else REGRESSION if comparison.hi < -MARGIN else UNDECIDED
    cells = {
        "points": f"{comparison.delta:+.3f}",
        "95 % interval": f"{comparison.lo:+.3f} to {comparison.hi:+.3f}",
        "margin": f"{MARGIN:g}",
        "p (McNemar)": f"{comparison.p:.2g}",
        "changed": f"{1 - comparison.agree:.3%} of {comparison.n}",
    }
    reason = "better" if comparison.lo > 0 else ""
    if verdict == UNDECIDED:
        reason = f"{comparison.n} images show differences of {(comparison.hi - comparison.lo) / 2:.2f} points and more"
    return Judgement(name, "top1", verdict, cells, reason)
