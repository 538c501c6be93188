"""A part of the GPU run: the tests marked `gpu`, on the device, in parallel. Experimental: it has not run on a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from bench.gpu.parts import arguments
from bench.paths import REPOSITORY

TESTS = ("tests/overlock/contmix/test_triton.py", "tests/overlock/depthwise/test_dispatch.py")


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments("bench.gpu.correctness").parse_args(argv)
    marker = ["-m", "gpu"] if args.device.startswith("cuda") else ["-m", "not gpu and not slow"]
    tests = ["-k", "test_the_same_result_every_time or test_kernel_sizes"] if args.tiny else []
    workers = str(max(1, min(12, (os.cpu_count() or 2) - 4)))
    report = args.out / "correctness.xml"
    options = ["-q", "-n", workers, "--no-header", "--tb=short", "-p", "no:cacheprovider", f"--junitxml={report}"]
    command = [sys.executable, "-m", "pytest", *TESTS, *marker, *tests, *options]
    environment = {**os.environ, "TRITON_INTERPRET": "0" if args.device.startswith("cuda") else "1"}
    return subprocess.run(command, cwd=REPOSITORY, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
