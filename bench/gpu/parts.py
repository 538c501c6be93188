"""The parts of a GPU run: their order, their times and their arguments. Importing this imports no torch.

Experimental: the parts have not run on a GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True)
class Part:
    """One part: a module that runs in a process of its own, the seconds that it may take, and its purpose."""

    name: str
    module: str
    seconds: float
    purpose: str
    arguments: tuple[str, ...] = ()
    beside: bool = False  # whether it runs at the same time as the next part, which times nothing
    extra: bool = False  # whether it runs only where it is asked for by name
    goes_on: bool = False  # whether it is started again after a crash, behind the case that it crashed in


WINNERS = "depthwise_winners.json"
"""The file that the part `depthwise` writes: the fastest implementation of each large depthwise convolution."""

WARMED = "warmed.json"
"""The file that the part `compile` writes: the names of the sides whose code is in the caches."""

DEPTHWISE = "large depthwise convolutions:"
"""The beginning of the note that names the implementation of a record's depthwise convolutions."""

VARIABLE, FUSIONS_VARIABLE = "OVERLOCK_DEPTHWISE", "OVERLOCK_FUSIONS"
"""Of `overlock.depthwise.dispatch` and `overlock.inference.fusions`, which cannot be imported without torch."""

TIME = 9.0 * 60
"""Seconds of a whole run: the machine stops a command after ten minutes."""

START = 12.0
"""Seconds until the first part begins: the machine and its device are described."""

RESERVE = 8.0
"""Seconds kept for the summary."""

GRACE = 4.0
"""Seconds that a part may take beyond its time before it is stopped."""

CORRECTNESS = ("correctness", "correctness_rest")
"""The parts whose tests say whether the kernels are correct."""

PARTS = (
    Part("compile", "bench.gpu.warm", 85, "compile the headline's models, so that they are in the cache", beside=True),
    Part("correctness", "bench.gpu.correctness", 85, "kernels against float64: bfloat16, and some of float32"),
    Part("headline", "bench.gpu.headline", 195, "the ratio of throughput, interleaved; memory", ("--of", "headline")),
    Part("training", "bench.gpu.headline", 85, "the ratio of training steps, interleaved", ("--of", "training")),
    Part("depthwise", "bench.gpu.operators", 40, "each implementation of large depthwise convolutions, over its floor",
         ("--of", "depthwise"), goes_on=True),
    Part("contmix", "bench.gpu.operators", 40, "each implementation of ContMix, over its floor", ("--of", "contmix"),
         goes_on=True),
    Part("correctness_rest", "bench.gpu.correctness", 30, "kernels against float64: float16 and the rest",
         ("--rest",)),
    Part("plain", "bench.gpu.headline", 200, "deploy against the plain form, and other ways to run either",
         ("--of", "plain"), extra=True),
    Part("compiled", "bench.gpu.headline", 300, "the ratio of throughput where both models are compiled",
         ("--of", "compiled"), extra=True),
    Part("compiled_training", "bench.gpu.headline", 300, "the ratio of training steps where both models are compiled",
         ("--of", "compiled_training"), extra=True),
    Part("kernels", "bench.gpu.kernels", 60, "where the time of eager OverLoCK-T goes, by kernel", extra=True),
)  # fmt: skip
"""In the order in which they run, the most important first of those that measure. All but the extra ones and what lies
between them end within `TIME`."""


def budgeted(parts: Sequence[Part], seconds: float) -> list[Part]:
    """The parts with the time that each gets of these seconds, in proportion; none gets less than its own, and those
    that then find no time left are dropped as they come up."""
    own = sum(part.seconds + GRACE for part in parts if not part.beside)
    own += max((p.seconds + GRACE for p in parts if p.beside), default=0.0) if all(p.beside for p in parts) else 0.0
    more = max(1.0, (seconds - START - RESERVE) / own) if own else 1.0
    return [replace(part, seconds=(part.seconds + GRACE) * more - GRACE) for part in parts]


def arguments(prog: str) -> argparse.ArgumentParser:
    """The arguments of every part."""
    p = argparse.ArgumentParser(prog=prog)
    p.add_argument("--name", required=True)
    p.add_argument("--folder", type=Path, required=True, help="where the parts find each other's files")
    p.add_argument("--seconds", type=float, required=True, help="the part's time")
    p.add_argument("--until", type=float, default=0.0, help="its end, in seconds since the epoch")
    p.add_argument("--device", default="cuda")
    p.add_argument("--skip", type=int, default=0, help="how many cases were begun before")
    p.add_argument("--tiny", action="store_true")
    return p


def depthwise_variable(folder: Path, what: str) -> dict[str, str]:
    """The variable by which large depthwise convolutions run on `torch`, on `triton`, on `padded`, or on the `winners`
    of a run."""
    return {VARIABLE: str((folder / WINNERS).resolve()) if what == "winners" else what}
