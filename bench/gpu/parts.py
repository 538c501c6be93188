"""The parts of a GPU run: their order, their arguments, and how each keeps its records. Importing this imports no
torch.

Experimental: the parts have not run on a GPU.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.records.record import Record, stamped


@dataclass(frozen=True)
class Part:
    """One part: a module that runs in a process of its own, the seconds that it may take, and its purpose."""

    name: str
    module: str
    seconds: float
    purpose: str
    arguments: tuple[str, ...] = ()
    beside: bool = False  # whether it runs at the same time as the parts before the first that measures


WINNERS = "depthwise_winners.json"
"""The file that the part `depthwise` writes: the fastest implementation of each large depthwise convolution."""

DEPTHWISE = "large depthwise convolutions:"
"""The beginning of the note that names the implementation of a record's depthwise convolutions."""

PARTS = (
    Part("compile", "bench.gpu.headline", 110, "compile the headline's models, so that they are in the cache",
         ("--compile-only",), beside=True),
    Part("correctness", "bench.gpu.correctness", 110, "kernels against float64, on the device"),
    Part("contmix", "bench.gpu.operators", 50, "each implementation of ContMix, over its floor", ("--of", "contmix")),
    Part("depthwise", "bench.gpu.operators", 45, "each implementation of large depthwise convolutions, over its floor",
         ("--of", "depthwise")),
    Part("headline", "bench.gpu.headline", 220, "the ratios: throughput, interleaved"),
    Part("training", "bench.gpu.headline", 110, "the ratio of training steps, interleaved", ("--training",)),
)  # fmt: skip
"""In the order in which they run, the most important first."""


@dataclass
class Sink:
    """Where a part keeps its records: a CSV file that is complete after each of them."""

    name: str
    folder: Path
    environment: dict[str, Any]
    until: float  # seconds since the epoch
    tiny: bool
    device: str
    run: str
    dropped: list[str] = field(default_factory=list)

    @property
    def left(self) -> float:
        """Seconds left for this part."""
        return self.until - time.time()

    def room(self, seconds: float, what: str) -> bool:
        """Whether there is time for `what`; if not, it is noted as dropped."""
        if self.left >= seconds:
            return True
        self.drop(what)
        return False

    def drop(self, what: str) -> None:
        self.dropped.append(what)
        with (self.folder / f"{self.name}.dropped").open("a", encoding="utf-8") as file:
            file.write(f"{what}\n")

    def keep(self, records: Sequence[Record]) -> None:
        """Append records, stamped with where and when they were measured."""
        from bench.records import store

        store.append(self.folder / f"{self.name}.csv", [stamped(r, self.environment, self.run) for r in records])


def depthwise_variable(folder: Path, what: str) -> dict[str, str]:
    """The variable by which large depthwise convolutions run on `torch`, on `triton`, or on the `winners` of a run."""
    from overlock.depthwise.dispatch import VARIABLE

    return {VARIABLE: str((folder / WINNERS).resolve()) if what == "winners" else what}


def arguments(prog: str) -> argparse.ArgumentParser:
    """The arguments of every part."""
    p = argparse.ArgumentParser(prog=prog)
    p.add_argument("--name", required=True)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--until", type=float, required=True)
    p.add_argument("--device", default="cuda")
    p.add_argument("--run", default="")
    p.add_argument("--tiny", action="store_true")
    return p


def sink(args: argparse.Namespace) -> Sink:
    """The sink for a part's arguments; the environment is the one that the run wrote when it began."""
    environment = json.loads((args.out / "environment.json").read_text(encoding="utf-8"))
    return Sink(args.name, args.out, environment, args.until, args.tiny, args.device, args.run)
