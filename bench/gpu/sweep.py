"""A part of the GPU run: one model of each family over sizes, dtypes and modes, all in one process for each model.

Elsewhere a figure is the median of several processes; here one process measures all figures of a model, so that they
fit into the run. The records say so: they show where to look, and only the ratios of the headline are interleaved.
Experimental: it has not run on a GPU.
"""

from __future__ import annotations

import copy
import gc
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.cli import resolution_name
from bench.engine.plan import ENERGY_BLOCK
from bench.gpu.parts import DEPTHWISE, WINNERS, Sink, arguments, depthwise_variable, sink
from bench.models import family_of
from bench.records.record import OUT_OF_MEMORY, Record

MODELS = (
    ("overlock_t", "deploy", "fused"),
    ("convnext_b", "deploy", "auto"),
    ("unireplknet_s", "deploy", "auto"),
    ("moganet_b", "deploy", "auto"),
)
"""One model of each family, near one another in published FLOPs or accuracy."""
TINY_MODELS = (("overlock_xt", "deploy", "tiled"), ("convnext_t", "deploy", "auto"))

METHOD = "one process, median of blocks of back-to-back calls; not interleaved"
ROW_SECONDS = 4.0
COMPILE_SECONDS = 60.0


@dataclass(frozen=True)
class Row:
    """What one row of the sweep measures."""

    kind: str  # throughput, latency or training
    size: int
    dtype: str
    compile: str
    batch: int
    energy: bool = False  # whether energy is measured, over a longer block


def rows(tiny: bool) -> list[Row]:
    """All rows, the most important first."""
    if tiny:
        return [Row("throughput", 64, "float32", "none", 2, energy=True), Row("latency", 64, "float32", "none", 1),
                Row("training", 64, "float32", "none", 2)]  # fmt: skip
    batches = {224: 256, 288: 128, 384: 64}  # so that the pixels of a batch stay about the same
    others = ("float16", "tf32", "float32")
    found = [
        Row("throughput", 224, "bfloat16", "cudagraph", 256, energy=True),
        Row("latency", 224, "bfloat16", "cudagraph", 1),
        Row("throughput", 224, "bfloat16", "none", 256),
        Row("training", 224, "bfloat16", "none", 128),
    ]
    found += [Row("throughput", size, "bfloat16", "cudagraph", batches[size]) for size in (288, 384)]
    found += [Row("throughput", 224, dtype, "cudagraph", 256) for dtype in others]
    found += [Row("latency", size, "bfloat16", "cudagraph", 1) for size in (288, 384)]
    found += [Row("latency", 224, "bfloat16", "none", 1), Row("throughput", 224, "bfloat16", "default", 256)]
    found += [Row("throughput", size, "bfloat16", "none", batches[size]) for size in (288, 384)]
    found += [Row("throughput", size, dtype, "cudagraph", batches[size]) for size in (288, 384) for dtype in others]
    found += [Row("latency", 224, dtype, "cudagraph", 1) for dtype in others]
    found += [Row("training", 224, "tf32", "none", 128)]
    return found


def depthwise(part: Sink, model: str) -> str:
    """The implementation of a model's large depthwise convolutions: the winners that this run measured, if there are
    any."""
    return "winners" if (part.folder / WINNERS).exists() and family_of(model).large_depthwise else "torch"


def measure(part: Sink, model: Any, template: Record, row: Row) -> list[Record]:
    """The records of one row: its time and, for throughput, the energy and the peak memory."""
    import torch

    from bench.engine import memory, speed, subject

    training = row.kind == "training"
    own = copy.deepcopy(model)
    ready = subject.place(own, part.device, row.dtype, "channels_last", row.batch, (row.size, row.size), 0)
    if training:
        ready.model.train().requires_grad_(True)
    checked = None if training else subject.check(ready)
    measured = memory.measure(ready) if row.kind == "throughput" and row.compile == "none" else None
    subject.compiled(ready, row.compile)
    work = speed.Training(ready) if training else speed.Inference(ready)
    work.first_call()
    warm = speed.warm_up(work, 0.2 if part.tiny else 0.6)
    length = 0.02 if part.tiny else 0.2
    blocks = [speed.block(work, warm.seconds, length, row.kind == "latency", i) for i in range(1 if part.tiny else 3)]
    problems = [*work.problems(), *(checked.problems if checked else ())]
    base = Record(**{
        **asdict(template), "resolution": resolution_name((row.size, row.size)), "batch": row.batch, "dtype": row.dtype,
        "compile": row.compile, "layout": ready.layout, "device": part.device, "method": METHOD,
        "backend": checked.backend if checked else "", "valid": not problems, "reasons": tuple(problems),
        "notes": (f"{DEPTHWISE} {depthwise(part, template.model)}",),
    })  # fmt: skip
    seconds = sorted(b.seconds for b in blocks)
    middle = seconds[len(seconds) // 2]
    values: dict[str, tuple[float, str]] = {
        row.kind: (middle, "s") if row.kind == "latency" else (row.batch / middle, "images/s")
    }
    if row.energy:
        long = speed.block(work, middle, length if part.tiny else ENERGY_BLOCK, False, 0)
        if long.joules is not None:
            values["energy"] = (long.joules / (long.calls * row.batch), "J/image")
    if measured is not None:
        values["memory"] = (measured.peak.median, "bytes")
    found = [Record(**{**base.to_dict(), "metric": m, "value": v, "unit": u}) for m, (v, u) in values.items()]
    del own, ready, work
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return found


def one_model(part: Sink, name: str, form: str, backend: str) -> int:
    """Measure the rows of one model, as many as its time allows."""
    import torch

    from bench import loading
    from bench.engine import speed

    entry = loading.resolve(name)
    models = {False: loading.load(entry, form, None, 0, backend)}
    training_form = "train" if entry.family.folds else form
    for row in rows(part.tiny):
        what = f"{name} {row.kind} {row.size} {row.dtype} {row.compile}"
        if not part.room(COMPILE_SECONDS if row.compile == "default" else ROW_SECONDS, what):
            continue
        training = row.kind == "training"
        if training not in models:
            models[training] = loading.load(entry, training_form, None, 0, backend)
        template = Record(model=name, form=training_form if training else form, metric=row.kind, value=None, unit="",
                          resolution="", weights="random:0", threads=torch.get_num_threads())  # fmt: skip
        try:
            part.keep(measure(part, models[training], template, row))
        except Exception as error:  # Triton and the compiler raise no narrower class
            traceback.print_exc()
            text = " ".join(str(error).split())[:200]
            kind = OUT_OF_MEMORY if speed.is_out_of_memory(error) else type(error).__name__
            conditions = {"resolution": str(row.size), "batch": row.batch, "dtype": row.dtype, "compile": row.compile}
            part.keep(
                [
                    Record(**{**asdict(template), **conditions, "unit": "s", "device": part.device}).failed(
                        f"{kind}: {text}"
                    )
                ]
            )
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    p = arguments("bench.gpu.sweep")
    p.add_argument("--model", help="JSON of (name, form, backend): this model alone, in this process")
    args = p.parse_args(argv)
    part = sink(args)
    if args.model:
        return one_model(part, *json.loads(args.model))
    models = TINY_MODELS if part.tiny else MODELS
    failed = 0
    for i, model in enumerate(models):
        until = args.until - part.left * (1 - 1 / (len(models) - i))  # an even share of what is left
        command = [sys.executable, "-m", "bench.gpu.sweep", "--name", args.name, "--out", str(args.out),
                   "--until", str(until), "--device", args.device, "--run", args.run,
                   "--model", json.dumps(model)]  # fmt: skip
        command += ["--tiny"] if part.tiny else []
        variable = depthwise_variable(part.folder, depthwise(part, model[0]))
        process = subprocess.Popen(command, env={**os.environ, **variable})
        try:
            failed += process.wait(timeout=max(1.0, until + 10 - time.time())) != 0
        except subprocess.TimeoutExpired:
            process.kill()
            part.drop(f"{model[0]}: stopped at its time")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
