"""This machine's own spread, as `python -m bench.calibrate` measured it; read where differences are judged.

Importing this imports no torch.
"""

from __future__ import annotations

from pathlib import Path

from bench.records.record import Record

SPREAD, VISIBLE, CANARY = "aa_spread", "smallest_visible", "canary_spread"
"""Metrics of a calibration: the standard deviation of the log-ratio of a run of a model against itself, the smallest
difference that a default run shows nine times in ten, and how far the canary moves in an undisturbed process."""


def latest(machine: str, results: Path | None = None) -> dict[str, Record]:
    """The last calibration's records by metric; empty if this machine has none in that folder of results."""
    from bench.records import store

    folder = (results or store.results_folder()) / machine
    if not machine or not folder.is_dir() or not list(folder.glob("*.csv")):
        return {}
    records = [r for r in store.read(folder) if r.metric in (SPREAD, VISIBLE, CANARY) and r.value is not None]
    return {r.metric: r for r in sorted(records, key=lambda r: r.time)}


def sentence(calibration: dict[str, Record]) -> str:
    """One line for people."""
    if SPREAD not in calibration or VISIBLE not in calibration:
        return "This machine is not calibrated: python -m bench.calibrate tells what differences it can see."
    spread, visible = calibration[SPREAD], calibration[VISIBLE]
    return (
        f"Calibration of {spread.time[:10]}: a model against itself spreads by {spread.value:.2%} from run to run; "
        f"a run of {visible.n} rounds sees differences from {visible.value:.1%} on."
    )


def canary_limit(calibration: dict[str, Record], least: float) -> float:
    """How far the canary may move: `least`, or as far as it moved undisturbed in the calibration if that is more."""
    record = calibration.get(CANARY)
    return max(least, record.value) if record is not None and record.value is not None else least
