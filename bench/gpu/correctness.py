"""A part of the GPU run: the tests marked `gpu`, on the device, in parallel. Every test is reported as it ends.

pytest runs in this process, so that a run that is stopped has every result until then. Experimental: it has not run on
a GPU.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from bench.gpu import simulation
from bench.gpu.parts import arguments
from bench.gpu.reports import Reporter
from bench.gpu.sink import sink
from bench.paths import REPOSITORY

TESTS = (
    "tests/overlock/contmix/test_triton.py",
    "tests/overlock/depthwise/test_last.py",
    "tests/overlock/depthwise/test_dispatch.py",
    "tests/overlock/inference/test_mlp_triton.py",
    "tests/overlock/inference/test_block_triton.py",
)

SINGLE = ("1x1x3x3-k3", "1x1x4x4-k3", "8x8x14x14-k13", "8x12x7x7-k7", "4x16x12x12-k7")
"""The cases of ContMix that are tried in float32 at first: compiling one takes up to 20 s of a processor."""

FIRST = f"bfloat16 or (float32 and ({' or '.join(SINGLE)}))"
"""What is tested before anything is measured, as pytest's -k has it: the dtype of the headline."""

XDIST = ("-p", "xdist.plugin", "-p", "no:cacheprovider", "-q", "--no-header")
"""The only plugin: loading all that are installed takes seconds of every process (PYTEST_DISABLE_PLUGIN_AUTOLOAD)."""

COMPILERS = {"TORCHINDUCTOR_COMPILE_THREADS": "3"}


def options(device: str, rest: bool, tiny: bool) -> list[str]:
    """pytest's arguments: which tests, in how many processes."""
    if simulation.running():
        from bench.gpu.simulation.tests import written

        return [str(written(rest)), "-n", "2", *XDIST]
    workers = max(1, min(9, (os.cpu_count() or 2) - 6))  # the others compile
    which = ["-m", "gpu", "-k", f"not ({FIRST})" if rest else FIRST]
    if not device.startswith("cuda"):
        which = ["-m", "not gpu and not slow"]
    if tiny:
        which += ["-k", "test_the_same_result_every_time" if rest else "test_kernel_sizes"]
    return [*TESTS, *which, "-n", str(workers), "--maxfail=8", "--tb=short", "--durations=10", *XDIST]


def main(argv: Sequence[str] | None = None) -> int:
    p = arguments("bench.gpu.correctness")
    p.add_argument("--rest", action="store_true", help="what is not tested first")
    args = p.parse_args(argv)
    part = sink(args)
    import pytest

    os.environ |= {
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "TRITON_INTERPRET": "0" if args.device.startswith("cuda") else "1",
        **COMPILERS,
    }
    os.chdir(simulation.folder() if simulation.running() else REPOSITORY)
    return int(pytest.main(options(args.device, args.rest, args.tiny), plugins=[Reporter(part)]))


if __name__ == "__main__":
    sys.exit(main())
