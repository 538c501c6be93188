"""A part of the GPU run: the ratios of the headline, each from one interleaved measurement.

Every model is timed in several configurations, and a ratio is that of the best configurations of two models.
Experimental: it has not run on a GPU.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import NamedTuple

from bench.engine.figures import records_of
from bench.engine.interleaved import measure
from bench.engine.outcome import Outcome
from bench.engine.passes import measured
from bench.engine.plan import Plan
from bench.engine.request import Request, Settings
from bench.gpu.parts import DEPTHWISE, WINNERS, Sink, arguments, depthwise_variable, sink
from bench.metrics import MEMORY, THROUGHPUT, TRAINING, of_kind
from bench.records.record import Record


class Configuration(NamedTuple):
    """One way to run a model."""

    model: str
    form: str
    backend: str  # ContMix's
    compile: str
    depthwise: str = "torch"  # what runs large depthwise convolutions: torch, triton, or the measured winners
    layout: str = "channels_last"

    @property
    def name(self) -> str:
        """The model and form, and how they run."""
        return f"{self.model} {self.form} ({self.backend}, {self.compile}, {self.layout}, {self.note})"

    @property
    def note(self) -> str:
        """What a record has no field for."""
        return f"{DEPTHWISE} {self.depthwise}"


INFERENCE: tuple[Configuration, ...] = (
    Configuration("overlock_t", "deploy", "fused", "cudagraph"),
    Configuration("overlock_t", "deploy", "fused", "cudagraph", "winners"),
    Configuration("overlock_t", "deploy", "fused", "default"),
    Configuration("overlock_t", "deploy", "fused", "default", "triton"),
    Configuration("convnext_b", "deploy", "auto", "cudagraph"),
    Configuration("convnext_b", "deploy", "auto", "cudagraph", layout="channels_first"),
    Configuration("convnext_b", "deploy", "auto", "default"),
    Configuration("overlock_t", "train", "reference", "default"),  # the plain form
    Configuration("overlock_t", "deploy", "tiled", "cudagraph"),
)
"""Compiled configurations are compiled before the winners are known, so they use Triton for all depthwise convolutions
or for none. The last configuration is for the case that fused ContMix fails."""
STEPS: tuple[Configuration, ...] = (
    Configuration("overlock_xt", "train", "fused", "none"),
    Configuration("overlock_xt", "train", "fused", "default"),
    Configuration("overlock_xt", "train", "fused", "default", "triton"),
    Configuration("convnext_t", "deploy", "auto", "none"),
    Configuration("convnext_t", "deploy", "auto", "none", layout="channels_first"),
    Configuration("convnext_t", "deploy", "auto", "default"),
)
TINY_INFERENCE: tuple[Configuration, ...] = (
    Configuration("overlock_xt", "deploy", "tiled", "none"),
    Configuration("overlock_xt", "deploy", "tiled", "none", "winners"),
    Configuration("convnext_t", "deploy", "auto", "none"),
    Configuration("overlock_xt", "train", "reference", "none"),
)
TINY_STEPS: tuple[Configuration, ...] = (
    Configuration("overlock_xt", "train", "tiled", "none"),
    Configuration("convnext_t", "deploy", "auto", "none"),
)
SIDE_SECONDS = 16.0
"""About the time of one process of one side, with the compiled code in the cache."""


def sides(configurations: Sequence[Configuration], part: Sink, kind: str) -> list[Request]:
    """The sides of these configurations: bfloat16, batch 256, 224x224."""
    batch = 2 if part.tiny else 256
    size = (64, 64) if part.tiny else (224, 224)
    dtype = "float32" if part.tiny else "bfloat16"
    return [
        Request(
            kind=kind,
            model=c.model,
            form=c.form,
            resolution=size,
            settings=Settings(
                device=part.device, dtype=dtype, batch=batch, backend=c.backend, compile=c.compile,
                layout=c.layout,
            ),
            label=c.name,
            env=depthwise_variable(part.folder, c.depthwise),
        )
        for c in configurations
    ]  # fmt: skip


def group(c: Configuration) -> tuple[str, str, bool]:
    """The group of which the best configuration counts: model and form; the reference backend is a group of its own."""
    return c.model, c.form, c.backend == "reference"


def best(outcome: Outcome, configurations: Sequence[Configuration], like: Configuration) -> int | None:
    """The side of `like`'s group with most images a second; None if none of them was measured."""
    own = [i for i, c in enumerate(configurations) if group(c) == group(like) and outcome.samples(i)]
    rate = {i: median(r.images_per_second for r in outcome.of(i)) for i in own}
    return max(own, key=lambda i: rate[i], default=None)


def keep_the_best(outcome: Outcome, configurations: Sequence[Configuration]) -> None:
    """Leave the further rounds to the best configuration of each group."""
    chosen = {best(outcome, configurations, c) for c in configurations}
    outcome.gone = [gone or i not in chosen for i, gone in enumerate(outcome.gone)]


def compare(
    part: Sink,
    kind: str,
    configurations: Sequence[Configuration],
    pairs: Sequence[tuple[str, Configuration, Configuration]],
) -> Outcome:
    """Measure the configurations in turn; `pairs` are the ratios' names and one configuration of either group."""
    rounds = 2 if part.tiny else 3
    plan = Plan(rounds=1, turns=2, block=0.1 if part.tiny else 0.4, warmup=0.3 if part.tiny else 1.0)
    outcome: Outcome | None = None
    for done in range(rounds):
        if outcome is not None:
            keep_the_best(outcome, configurations)
            sides_left = outcome.gone.count(False)
            if not part.room(SIDE_SECONDS * sides_left, f"round {done + 1} of {rounds}"):
                break
        outcome = next(measure(sides(configurations, part, kind), plan, _told, outcome), outcome)
    assert outcome is not None
    metrics = [metric for metric in of_kind(kind) if metric != "energy"]  # blocks are too short for its counter
    kept = list(records_of(outcome, metrics, [None] * len(outcome.sides)))
    each = len(kept) // len(configurations)
    kept = [replace(r, notes=(*r.notes, configurations[i // each].note)) for i, r in enumerate(kept)]
    for name, first, second in pairs:
        kept += _ratio(outcome, kind, name, best(outcome, configurations, first), best(outcome, configurations, second))
    part.keep([r for r in kept if r.value is not None or r.metric in ("throughput", "training", "throughput_ratio")])
    return outcome


def _ratio(outcome: Outcome, kind: str, name: str, a: int | None, b: int | None) -> list[Record]:
    if a is None or b is None:
        return []
    metric = f"{of_kind(kind)[0]}_ratio"
    records = list(records_of(outcome, [metric], [b if i == a else None for i in range(len(outcome.sides))]))
    note = f"{name}: {outcome.sides[a].name} against {outcome.sides[b].name}, each the best of its configurations"
    return [replace(r, notes=(*r.notes, note)) for r in records]


def _told(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def memory(part: Sink, configurations: Sequence[Configuration]) -> None:
    """Peak memory of inference, each configuration in a fresh process."""
    for c, side in zip(configurations, sides(configurations, part, MEMORY), strict=True):
        if not part.room(SIDE_SECONDS, f"memory of {side.name}"):
            continue
        ((_, records),) = measured([replace(side, settings=replace(side.settings, compile="none"))])
        part.keep([replace(r, notes=(*r.notes, c.note)) for r in records])


def compile_all(part: Sink) -> None:
    """Compile every compiled side once, all at the same time, each in a process of its own: the cache keeps it."""
    processes = []
    for kind, configurations in ((THROUGHPUT, INFERENCE), (TRAINING, STEPS)):
        for side in sides([c for c in configurations if c.compile == "default"], part, kind):
            command = [sys.executable, "-m", "bench.gpu.warm", json.dumps(side.to_dict())]
            processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
    for process in processes:
        try:
            process.wait(timeout=max(1.0, part.left))
        except subprocess.TimeoutExpired:
            process.kill()


def main(argv: Sequence[str] | None = None) -> int:
    p = arguments("bench.gpu.headline")
    p.add_argument("--training", action="store_true")
    p.add_argument("--compile-only", action="store_true")
    args = p.parse_args(argv)
    part = sink(args)
    if args.compile_only:
        if not part.tiny:
            compile_all(part)
        return 0
    configurations = (
        (TINY_STEPS if part.tiny else STEPS) if args.training else TINY_INFERENCE if part.tiny else INFERENCE
    )
    for c in [c for c in configurations if c.depthwise == "winners" and not (part.folder / WINNERS).exists()]:
        part.drop(f"{c.name}: they were not measured")
        configurations = tuple(other for other in configurations if other != c)
    ours, theirs = configurations[0], next(c for c in configurations if c.model != configurations[0].model)
    if args.training:
        compare(part, TRAINING, configurations, [("OverLoCK-XT / ConvNeXt-T, training step", ours, theirs)])
        return 0
    plain = next(c for c in configurations if c.backend == "reference")
    pairs = [("OverLoCK-T deploy / ConvNeXt-B", ours, theirs), ("OverLoCK-T deploy / its plain form", ours, plain)]
    outcome = compare(part, THROUGHPUT, configurations, pairs)
    chosen = (best(outcome, configurations, c) for c in (ours, theirs))
    memory(part, [configurations[i] for i in chosen if i is not None])
    return 0


if __name__ == "__main__":
    sys.exit(main())
