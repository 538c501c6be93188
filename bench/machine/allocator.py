"""glibc's allocator in a process that measures: its thresholds are part of the machine. Imports no torch."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping

STEADY = {"MALLOC_MMAP_THRESHOLD_": 32 * 2**20, "MALLOC_TRIM_THRESHOLD_": 64 * 2**20}
"""glibc's thresholds in a process that is timed, where the user does not set them: the values at which glibc's own
adjustment arrives in a long-running process. Left to itself, a process gets there late or never and maps its larger
tensors afresh in each call until then; the same model then differs by 5 to 10 % from process to process."""

MAPPING = {"MALLOC_MMAP_THRESHOLD_": 65536}
"""Thresholds of a process that measures memory, where the user does not set them: see `bench.engine.memory`."""

_NUMBERS = {"MALLOC_TRIM_THRESHOLD_": -1, "MALLOC_MMAP_THRESHOLD_": -3}  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD


def settle(thresholds: Mapping[str, int]) -> dict[str, str]:
    """Set the thresholds that the user's environment leaves open; returns all that hold, under the variables' names.

    Where the C library has no `mallopt` (macOS, musl) nothing is set, and the user's alone are returned.
    """
    held = {}
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    for name, value in thresholds.items():
        if name in os.environ:
            held[name] = os.environ[name]
        elif mallopt is not None and mallopt(_NUMBERS[name], value) == 1:
            held[name] = str(value)
    return held
