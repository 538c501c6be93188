"""The fused backend is tested in a file of its own: off CUDA it runs in an interpreter, a thousand times slower."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _fused_needs_a_gpu_here(request: pytest.FixtureRequest) -> None:
    parameters = getattr(getattr(request.node, "callspec", None), "params", {})
    if parameters.get("backend") == "fused" and request.node.get_closest_marker("gpu") is None:
        pytest.skip("tested in test_triton.py")
