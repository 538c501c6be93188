"""A simulated GPU run: real processes and pipes, and in the place of every CUDA call a clock and planted failures.

`python -m bench.gpu_run --simulate` starts it. `GPU_RUN_SIMULATION` names its folder, which holds `plan.json` and the
ledger of what was measured. Its figures mean nothing. This file is what the real code asks; nothing of it acts where
the variable is not set. Imports no torch.
"""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

VARIABLE = "GPU_RUN_SIMULATION"
DISK_FULL = "disk_full"
"""A file of the simulation's folder: the disk is full, for good if it says so."""

PART, PART_PROCESS = "GPU_RUN_PART", "GPU_RUN_PART_PROCESS"
"""Variables that name the part, and its process, to the processes that it starts."""


def running() -> bool:
    """Whether this is a simulation."""
    return VARIABLE in os.environ


def folder() -> Path:
    """The simulation's folder."""
    return Path(os.environ[VARIABLE])


@lru_cache(maxsize=1)
def plan() -> dict[str, Any]:
    """`speed`, the simulated seconds in a second; `failures`, as `bench.gpu.simulation.device` reads them; and
    `run`, the process of the run."""
    values: dict[str, Any] = json.loads((folder() / "plan.json").read_text(encoding="utf-8"))
    return values


def part_begins(name: str) -> None:
    """Tell the processes that this one will start which part it is."""
    os.environ |= {PART: name, PART_PROCESS: str(os.getpid())}


def speed() -> float:
    """Seconds of the run in a real second: 1, but in a simulation."""
    return float(plan()["speed"]) if running() else 1.0


def real(seconds: float) -> float:
    """Real seconds that these seconds of the run take."""
    return seconds / speed()


def run_seconds(seconds: float) -> float:
    """Seconds of the run in these real seconds."""
    return seconds * speed()


def disk_is_full(ballast: bool) -> bool:
    """Whether the simulated disk is full; space that is given back, the ballast, can be used."""
    marker = folder() / DISK_FULL
    return marker.exists() and (ballast or marker.read_text(encoding="utf-8") == "full-for-good")
