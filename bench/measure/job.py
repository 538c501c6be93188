"""What a worker process is asked to do, as plain data. Importing this imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.cli import resolution_name
from bench.records import Record

COST, THROUGHPUT, MEMORY = "cost", "throughput", "memory"
UNITS = {"params": "count", "macs": "MACs", "throughput": "images/s", "memory": "bytes"}
"""Metrics that can be asked for, and their units."""

ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""Environment of a process that measures memory, where the user does not set it: see `bench.measure.memory`."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Conditions that hold for a whole run. `device` and the batch may still be `auto`."""

    device: str = "auto"
    dtype: str = "float32"
    layout: str = "auto"
    batch: int | str = "auto"
    threads: int = 1
    backend: str = "auto"
    weights: Mapping[str, str] = field(default_factory=dict)  # model -> checkpoint file; random where it has none
    seed: int = 0
    quick: bool = False


@dataclass(frozen=True, kw_only=True)
class Job:
    """One measurement: some metrics of one model in one form at one resolution, in one process."""

    kind: str  # COST, THROUGHPUT or MEMORY
    model: str
    form: str
    resolution: tuple[int, int]  # height, width
    metrics: tuple[str, ...]
    settings: Settings

    def records(self) -> list[Record]:
        """A record without a value for each metric, with the conditions that are known beforehand."""
        conditions: dict[str, Any] = {}
        if self.kind != COST:
            s = self.settings
            assert isinstance(s.batch, int), "the batch is decided before a job is made"
            conditions = {
                "batch": s.batch,
                "dtype": s.dtype,
                "layout": s.layout,
                "compile": "none",
                "threads": s.threads,
                "device": s.device,
                "weights": "" if s.weights.get(self.model) else f"random:{s.seed}",
            }
        return [
            Record(
                model=self.model,
                form=self.form,
                metric=metric,
                value=None,
                unit=UNITS[metric],
                resolution=resolution_name(self.resolution),
                **conditions,
            )
            for metric in self.metrics
        ]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Job:
        settings = Settings(**values["settings"])
        sizes = {"resolution": tuple(values["resolution"]), "metrics": tuple(values["metrics"])}
        return cls(**{**values, **sizes, "settings": settings})


def automatic_batch(device: str, resolution: tuple[int, int]) -> int:
    """Images a batch where none is asked for: enough to occupy the device, the same for every model.

    4 (CPU), 32 (MPS) or 128 (CUDA) at 224x224, fewer above in proportion to the area, never fewer than 1.
    """
    at_224 = {"cpu": 4, "mps": 32}.get(device, 128)
    batch = int(at_224 * 224 * 224 / (resolution[0] * resolution[1]))
    return max(1, min(at_224, batch))
