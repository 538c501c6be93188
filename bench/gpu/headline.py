"""A part of the GPU run: the ratios that it exists for, each of one interleaved measurement.

Every model runs in several configurations side by side, and the ratio is that of each one's best.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from bench.gpu.parts import Sink, arguments, sink
from bench.measure.figures import OF_KIND, records_of
from bench.measure.interleaved import Outcome, measure
from bench.measure.job import MEMORY, Job, Settings
from bench.measure.runner import run
from bench.measure.side import THROUGHPUT, TRAINING, Plan, Side
from bench.records import Record

Configuration = tuple[str, str, str, str]  # model, form, ContMix's backend, compile

INFERENCE: tuple[Configuration, ...] = (
    ("overlock_t", "deploy", "fused", "cudagraph"),
    ("overlock_t", "deploy", "fused", "default"),
    ("overlock_t", "deploy", "tiled", "cudagraph"),
    ("convnext_b", "deploy", "auto", "cudagraph"),
    ("convnext_b", "deploy", "auto", "default"),
    ("overlock_t", "train", "reference", "default"),  # the plain form
)
STEPS: tuple[Configuration, ...] = (
    ("overlock_xt", "train", "fused", "none"),
    ("overlock_xt", "train", "fused", "default"),
    ("convnext_t", "deploy", "auto", "none"),
    ("convnext_t", "deploy", "auto", "default"),
)
TINY_INFERENCE: tuple[Configuration, ...] = (
    ("overlock_xt", "deploy", "tiled", "none"),
    ("convnext_t", "deploy", "auto", "none"),
    ("overlock_xt", "train", "reference", "none"),
)
TINY_STEPS: tuple[Configuration, ...] = (
    ("overlock_xt", "train", "tiled", "none"),
    ("convnext_t", "deploy", "auto", "none"),
)
SIDE_SECONDS = 16.0
"""About what one process of one side takes, compiled code in the cache."""


def sides(configurations: Sequence[Configuration], part: Sink) -> list[Side]:
    """The sides of these configurations: bfloat16, batch 256, 224x224."""
    batch = 2 if part.tiny else 256
    size = (64, 64) if part.tiny else (224, 224)
    dtype = "float32" if part.tiny else "bfloat16"
    return [
        Side(
            model=model,
            form=form,
            resolution=size,
            settings=Settings(
                device=part.device, dtype=dtype, batch=batch, backend=backend, compile=mode, layout="channels_last"
            ),
            label=f"{model} {form} ({backend}, {mode})",
        )
        for model, form, backend, mode in configurations
    ]


def _same(configurations: Sequence[Configuration], i: int) -> list[Configuration]:
    """The configurations of the same model and form; the plain form is one of its own."""
    model, form, backend, _ = configurations[i]
    return [c for c in configurations if c[:2] == (model, form) and (c[2] == "reference") == (backend == "reference")]


def best(outcome: Outcome, wanted: Sequence[Configuration]) -> int | None:
    """The side of `wanted` with most images a second; None if none of them was measured."""
    keys = [(s.model, s.form, s.settings.backend, s.settings.compile) for s in outcome.sides]
    measured = [i for i, key in enumerate(keys) if key in wanted and outcome.samples(i)]
    rate = {i: median(r.images_per_second for r in outcome.of(i)) for i in measured}
    return max(measured, key=lambda i: rate[i], default=None)


def keep_the_best(outcome: Outcome, configurations: Sequence[Configuration]) -> None:
    """Leave the further rounds to the best configuration of each model and form, and to the plain form."""
    groups = {(*c[:2], c[2] == "reference"): _same(configurations, i) for i, c in enumerate(configurations)}
    chosen = {best(outcome, group) for group in groups.values()}
    outcome.gone = [gone or i not in chosen for i, gone in enumerate(outcome.gone)]


def compare(
    part: Sink, kind: str, configurations: Sequence[Configuration], pairs: Sequence[tuple[str, int, int]]
) -> None:
    """Measure the configurations in turn; `pairs` are (name, configuration, configuration) of models to compare."""
    rounds = 2 if part.tiny else 3
    plan = Plan(rounds=1, turns=2, block=0.1 if part.tiny else 0.4, warmup=0.3 if part.tiny else 1.0)
    outcome: Outcome | None = None
    for done in range(rounds):
        if outcome is not None:
            keep_the_best(outcome, configurations)
            sides_left = outcome.gone.count(False)
            if not part.room(SIDE_SECONDS * sides_left, f"round {done + 1} of {rounds}"):
                break
        outcome = next(measure(sides(configurations, part), kind, plan, _told, outcome), outcome)
    assert outcome is not None
    kept = list(records_of(outcome, kind, OF_KIND[kind], [None] * len(outcome.sides)))
    for name, first, second in pairs:
        kept += _ratio(outcome, kind, name, configurations, first, second)
    part.keep([r for r in kept if r.value is not None or r.metric in ("throughput", "training", "throughput_ratio")])


def _ratio(
    outcome: Outcome, kind: str, name: str, configurations: Sequence[Configuration], first: int, second: int
) -> list[Record]:
    a, b = best(outcome, _same(configurations, first)), best(outcome, _same(configurations, second))
    if a is None or b is None:
        return []
    metric = f"{OF_KIND[kind][0]}_ratio"
    found = list(records_of(outcome, kind, [metric], [b if i == a else None for i in range(len(outcome.sides))]))
    note = f"{name}: {outcome.sides[a].name} against {outcome.sides[b].name}, each the best of its configurations"
    return [replace(r, notes=(*r.notes, note)) for r in found]


def _told(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def memory(part: Sink, configurations: Sequence[Configuration]) -> None:
    """Peak memory of inference, a fresh process each."""
    for side in sides(configurations, part):
        if not part.room(SIDE_SECONDS, f"memory of {side.name}"):
            continue
        settings = replace(side.settings, compile="none")
        job = Job(kind=MEMORY, model=side.model, form=side.form, resolution=side.resolution, metrics=("memory",),
                  settings=settings)  # fmt: skip
        part.keep([message for message in run([[job]], settings.threads) if isinstance(message, Record)])


def compile_all(part: Sink) -> None:
    """Have every compiled side compiled once, each in a process of its own, side by side: the cache keeps it."""
    processes = []
    for kind, configurations in ((THROUGHPUT, INFERENCE), (TRAINING, STEPS)):
        for side in sides([c for c in configurations if c[3] == "default"], part):
            request = json.dumps({"side": side.to_dict(), "kind": kind})
            command = [sys.executable, "-m", "bench.gpu.warm", request]
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
    elif args.training:
        steps = TINY_STEPS if part.tiny else STEPS
        compare(part, TRAINING, steps, [("OverLoCK-XT / ConvNeXt-T, training step", 0, len(steps) - 1)])
    else:
        inference = TINY_INFERENCE if part.tiny else INFERENCE
        other = next(i for i, c in enumerate(inference) if c[0].startswith("convnext"))
        compare(
            part,
            THROUGHPUT,
            inference,
            [
                ("OverLoCK-T deploy / ConvNeXt-B", 0, other),
                ("OverLoCK-T deploy / its plain form", 0, len(inference) - 1),
            ],
        )
        memory(part, [inference[0], inference[other]])
    return 0


if __name__ == "__main__":
    sys.exit(main())
