"""What a worker process is asked to do, as plain data. Importing this imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.cli import resolution_name
from bench.records.record import Record
from bench.tasks import variant_of

COST, MEMORY, LARGEST_BATCH = "cost", "memory", "largest_batch"
"""Kinds of jobs; what is timed is not a job but a side (`bench.engine.side`)."""

UNITS = {
    "params": "count",
    "macs": "MACs",
    "activations": "count",
    "throughput": "images/s",
    "latency": "s",
    "training": "images/s",
    "cold_start": "s",
    "compile_time": "s",
    "memory": "bytes",
    "largest_batch": "images",
    "energy": "J/image",
    "latency_p90": "s",
    "latency_p99": "s",
    "bytes_moved": "bytes",
}
"""Metrics and their units."""

METRICS = tuple(name for name in UNITS if not name.startswith("latency_p") and name != "bytes_moved")
"""Metrics that can be asked for; latency comes with its tail, bytes moved with a breakdown."""

DEFAULT_METRICS = ("params", "macs", "throughput", "memory")
COST_METRICS = ("params", "macs", "activations")

ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""Environment of a process that measures memory, where the user does not set it: see `bench.engine.memory`."""


TURN = "OVERLOCK_BENCH_TURN"
"""Variable that names the lock by which processes that load side by side measure one after another."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Conditions that hold for a whole run. `device` and the batch may still be `auto`."""

    device: str = "auto"
    dtype: str = "float32"
    layout: str = "auto"
    batch: int | str = "auto"
    threads: int = 1
    backend: str = "auto"
    compile: str = "none"  # none, a mode of torch.compile, or cudagraph
    imports: tuple[str, ...] = ()  # modules to import first: they register models with timm
    weights: Mapping[str, str] = field(default_factory=dict)  # model -> checkpoint file; random where it has none
    seed: int = 0
    memory_budget: int | None = None  # bytes that a largest batch may take; None: what the device or machine has free

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Settings:
        return cls(**{**values, "imports": tuple(values.get("imports", ()))})


@dataclass(frozen=True, kw_only=True)
class Job:
    """One measurement: some metrics of one model in one form at one resolution, in one process."""

    kind: str  # COST, MEMORY or LARGEST_BATCH
    model: str
    form: str
    resolution: tuple[int, int]  # height, width
    metrics: tuple[str, ...]
    settings: Settings
    task: str = "classification"
    head: str = ""  # of a detector

    def records(self) -> list[Record]:
        """A record without a value for each metric, with the conditions that are known beforehand."""
        conditions: dict[str, Any] = {}
        if self.kind != COST:
            s = self.settings
            assert isinstance(s.batch, int), "the batch is decided before a job is made"
            conditions = {
                "batch": None if self.kind == LARGEST_BATCH else s.batch,
                "dtype": s.dtype,
                "layout": s.layout,
                "compile": s.compile,
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
                task=self.task,
                head=self.head,
                variant=variant_of(self.task),
                resolution=resolution_name(self.resolution),
                **conditions,
            )
            for metric in self.metrics
        ]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Job:
        settings = Settings.from_dict(values["settings"])
        sizes = {"resolution": tuple(values["resolution"]), "metrics": tuple(values["metrics"])}
        return cls(**{**values, **sizes, "settings": settings})


def automatic_batch(device: str, resolution: tuple[int, int]) -> int:
    """Images a batch where none is asked for: enough to occupy the device, the same for every model.

    4 (CPU), 32 (MPS) or 128 (CUDA) at 224x224, fewer above in proportion to the area, never fewer than 1.
    """
    at_224 = {"cpu": 4, "mps": 32}.get(device, 128)
    batch = int(at_224 * 224 * 224 / (resolution[0] * resolution[1]))
    return max(1, min(at_224, batch))
