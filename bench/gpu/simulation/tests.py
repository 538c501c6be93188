"""The simulated tests of kernels: real pytest, on a file whose tests are operations of the simulated device."""

from __future__ import annotations

from pathlib import Path

from bench.gpu import simulation

COUNT, SECONDS = 24, 2.0

TEXT = """
import os
import pytest
from bench.gpu.simulation import device

@pytest.mark.parametrize("number", range({count}))
def test_kernel(number, request):
    device.operate(f"testing kernel {{number}}", {seconds})
    device.measured(test=request.node.nodeid)
"""


def written(rest: bool) -> Path:
    """The file with the tests."""
    path = simulation.folder() / f"test_simulated{'_rest' if rest else ''}.py"
    path.write_text(TEXT.format(count=COUNT // 3 if rest else COUNT, seconds=SECONDS), encoding="utf-8")
    return path
