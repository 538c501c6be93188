"""What a process is asked to measure, as plain data. Importing this imports no torch."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.cli import resolution_name
from bench.metrics import COST, LARGEST_BATCH, LATENCY, METRICS, THROUGHPUT, TRAINING
from bench.records.record import Record
from bench.tasks import variant_of

TIMED = (THROUGHPUT, LATENCY, TRAINING)
"""What can be timed: blocks of inference, single calls at batch 1, training steps."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Conditions that hold for a whole run. `device` and the batch may still be `auto`."""

    device: str = "auto"
    dtype: str = "float32"
    layout: str = "auto"
    batch: int | str = "auto"
    threads: int = 1
    backend: str = "auto"
    compile: str = "none"  # none, a mode of torch.compile, cudagraph, or a runtime of `bench.engine.runtimes`
    exports: str = ""  # the folder of the files that such a runtime runs
    imports: tuple[str, ...] = ()  # modules to import first: they register models with timm
    weights: Mapping[str, str] = field(default_factory=dict)  # model -> checkpoint file; random where it has none
    seed: int = 0
    process: str = "fork"  # a worker is forked from a server that has imported everything, or `exec`ed
    memory_budget: int | None = None  # bytes that a largest batch may take; None: what the device or machine has free

    @classmethod
    def of(cls, arguments: Namespace, **others: Any) -> Settings:
        """What a command's arguments ask for (`bench.cli.add_timing`), with the others."""
        from bench.machine.environment import physical_cores

        threads = arguments.threads or physical_cores()
        return cls(device=arguments.device, threads=threads, process=arguments.process, **others)

    def decided(self, resolution: tuple[int, int]) -> Settings:
        """With a number for an automatic batch, on a device that is known."""
        return replace(self, batch=automatic_batch(self.device, resolution)) if self.batch == "auto" else self

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Settings:
        return cls(**{**values, "imports": tuple(values.get("imports", ()))})


@dataclass(frozen=True, kw_only=True)
class Request:
    """One thing to measure: a model in a form at a size under settings, of this checkout or of another.

    Where something is run, `settings.batch` is a number and `settings.device` a device; `settings.layout` may be
    `auto`: the first process of what is timed decides it for all. `root` is another checkout: its `overlock` and
    `baselines` are then measured, with this one's `bench`, so that all are timed by the same code. `python` is another
    interpreter (an environment with other libraries), `env` are variables of the process.
    """

    kind: str = THROUGHPUT  # of measurement, as in `bench.metrics`
    model: str
    form: str
    resolution: tuple[int, int]  # height, width
    settings: Settings
    task: str = "classification"
    head: str = ""  # of a dense task
    label: str = ""
    root: str = ""
    python: str = ""
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.label or f"{self.model} {self.form}"

    @property
    def checkpoint(self) -> Path | None:
        """The file of its weights; None where they are random."""
        path = self.settings.weights.get(self.model)
        return Path(path) if path else None

    @property
    def images(self) -> int:
        """Images a call."""
        if self.kind in (LATENCY, LARGEST_BATCH):
            return 1
        assert isinstance(self.settings.batch, int), "the batch is decided before a process is started"
        return self.settings.batch

    def record(self, metric: str) -> Record:
        """The record of a metric without a value, with the conditions that are known beforehand."""
        s = self.settings
        conditions: dict[str, Any] = {}
        if self.kind != COST:
            conditions = {
                "batch": None if self.kind == LARGEST_BATCH else self.images,
                "dtype": s.dtype,
                "layout": s.layout,
                "compile": s.compile,
                "threads": s.threads,
                "device": s.device,
                "weights": "" if self.checkpoint else f"random:{s.seed}",
            }
        return Record(
            model=self.model,
            form=self.form,
            metric=metric,
            value=None,
            unit=METRICS[metric].unit,
            task=self.task,
            head=self.head,
            variant=variant_of(self.task),
            resolution=resolution_name(self.resolution),
            **conditions,
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Request:
        settings = Settings.from_dict(values["settings"])
        return cls(**{**values, "resolution": tuple(values["resolution"]), "settings": settings})


def automatic_batch(device: str, resolution: tuple[int, int]) -> int:
    """Images a batch where none is asked for: enough to occupy the device, the same for every model.

    4 (CPU), 32 (MPS) or 128 (CUDA) at 224x224, fewer above in proportion to the area, never fewer than 1.
    """
    at_224 = {"cpu": 4, "mps": 32}.get(device, 128)
    batch = int(at_224 * 224 * 224 / (resolution[0] * resolution[1]))
    return max(1, min(at_224, batch))
