"""Speed of whole models: OverLoCK's forms beside ConvNeXt.

    pytest -n 0 tests/benchmarks/test_bench_models.py --benchmark-columns=min,median,stddev,rounds

Ratios are to be read within one group. Here the sides of a group run one after another in one process:
`python -m tests.benchmarks.speed_table` takes them in turn, in fresh processes, and is slower.
"""

from __future__ import annotations

from dataclasses import replace

import psutil
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench.engine import speed, subject
from bench.engine.check import import_modules
from bench.metrics import TRAINING
from tests.benchmarks.speed_table import GROUPS

NEED = 6 << 30  # bytes of memory that the largest of these cases needs: the training steps
CASES = {f"{name}: {side.name}": (name, side) for name, group in GROUPS.items() for side in group.sides}


@pytest.mark.parametrize("case", CASES)
def test_model(benchmark: BenchmarkFixture, case: str) -> None:
    benchmark.group, side = CASES[case]
    kind = GROUPS[benchmark.group].kind
    training = kind == TRAINING
    free = psutil.virtual_memory().available
    if training and free < NEED:
        pytest.skip(f"a training step needs up to {NEED / 2**30:.0f} GiB, {free / 2**30:.1f} GiB are free")
    import_modules(side.settings.imports)
    ready = subject.prepare(replace(side, kind=kind))
    work = speed.Training(ready) if training else speed.Inference(ready)
    if side.settings.layout == "auto":
        speed.faster_layout(ready, type(work))
    out = benchmark.pedantic(work.call, args=(0,), rounds=3, iterations=1, warmup_rounds=1)
    assert torch.as_tensor(out).isfinite().all()
