"""Records made by hand, for the tests of claims and reports: figures of no machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.records.record import Record
from bench.records.store import save

MACHINES = ("machine-a", "machine-b")
COST = {"overlock_t": (33_467_040, 5.64e9), "convnext_b": (88_591_464, 15.35e9), "convnext_t": (28_589_128, 4.46e9)}


def record(model: str, metric: str, value: float | None, **changes: Any) -> Record:
    """A record, counted unless `changes` say otherwise."""
    units = {"params": "count", "macs": "MACs", "throughput": "images/s", "memory": "bytes", "top1": "%"}
    common: dict[str, Any] = {
        "form": "deploy",
        "unit": units.get(metric, ""),
        "resolution": "224",
        "machine": MACHINES[0],
        "commit": "c0ffee" * 6,
        "dirty": False,
        "torch": "2.15.0",
        "run": "run-1",
        "time": "2026-01-01T00:00:00+00:00",
    }
    return Record(model=model, metric=metric, value=value, **{**common, **changes})


def timed(model: str, metric: str, value: float, spread: float = 0.01, **changes: Any) -> Record:
    """A record of something that ran."""
    common: dict[str, Any] = {"device": "cpu", "dtype": "float32", "batch": 4, "threads": 2, "weights": "random:0"}
    bounds = {"lo": value * (1 - spread), "hi": value * (1 + spread)}
    return record(model, metric, value, **{**common, **bounds, **changes})


def cost(**changes: Any) -> list[Record]:
    """Parameters and MACs of three models."""
    made = []
    for model, (params, macs) in COST.items():
        made += [record(model, "params", params, **changes), record(model, "macs", macs, **changes)]
    return made


def kept(results: Path, records: list[Record]) -> Path:
    """Records in a results folder, with an environment for each machine."""
    for machine in dict.fromkeys(r.machine for r in records):
        environment = {
            "machine": machine,
            "cpu": f"CPU of {machine}",
            "cores": 2,
            "memory_bytes": 8 << 30,
            "os": "Linux",
            "python": "3.12",
            "libraries": {"torch": "2.15.0", "timm": "1.0"},
            "device": "cpu",
        }
        save([r for r in records if r.machine == machine], environment, results)
    return results
