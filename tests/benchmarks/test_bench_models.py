"""Speed of whole models: OverLoCK's forms beside ConvNeXt.

    pytest -n 0 tests/benchmarks/test_bench_models.py --benchmark-columns=min,median,stddev,rounds

Ratios are to be read within one group. Here the sides of a group run one after another in one process:
`speed_table.py` interleaves them in fresh processes, and is slower.
"""

from __future__ import annotations

import psutil
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from tests.benchmarks.comparisons import GROUPS, sides_of

NEED = 6 << 30  # bytes of memory that the largest of these cases needs: the training steps
CASES = {f"{group}: {side}": (group, side) for group, ratios in GROUPS.items() for side in sides_of(ratios)}


@pytest.mark.parametrize("case", CASES)
def test_model(benchmark: BenchmarkFixture, case: str) -> None:
    group, side = CASES[case]
    free = psutil.virtual_memory().available
    if side.task == "training step" and free < NEED:
        pytest.skip(f"a training step needs up to {NEED / 2**30:.0f} GiB, {free / 2**30:.1f} GiB are free")
    benchmark.group = group
    out = benchmark.pedantic(side.prepare(), rounds=3, iterations=1, warmup_rounds=1)
    assert torch.as_tensor(out).isfinite().all()
