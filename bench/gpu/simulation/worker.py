"""The simulated worker of `bench.engine`: the same commands and answers, from `bench.gpu.simulation.device`.

`interpreter` makes a file that stands in the place of a request's Python. Imports no torch.
"""

from __future__ import annotations

import json
import os
import random
import sys
from typing import Any

from bench.gpu import simulation
from bench.gpu.simulation import device

LOADING, WARMING, COMPILING, FINISHING, MEMORY = 5.0, 5.0, 20.0, 1.0, 3.0
SECONDS = {"overlock_t": 0.040, "convnext_b": 0.033, "overlock_xt": 0.090, "convnext_t": 0.060}
"""Plausible seconds of a call; made up."""


def interpreter() -> str:
    """A file that takes the arguments of a Python that starts a worker, and starts a simulated one."""
    path = simulation.folder() / "python"
    if not path.exists():
        own = path.with_name(f"python.{os.getpid()}")
        own.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m bench.gpu.simulation.worker\n', encoding="utf-8")
        own.chmod(0o755)
        own.replace(path)
    return str(path)


class Commands:
    """What `bench.engine.worker.Commands` answers, as far as the parts ask."""

    def prepare(self, request: dict[str, Any]) -> dict[str, Any]:
        self.request = request
        self.name = request["label"] or f"{request['model']} {request['form']}"
        device.operate(f"loading {self.name}", LOADING)
        return {"sources": {}}

    def warm(self, plan: dict[str, Any], check: bool = True) -> dict[str, Any]:
        self.plan, problems = plan, []
        compiles = self.request["settings"]["compile"] not in ("none", "cudagraph")
        try:
            device.operate(f"warming up {self.name}", COMPILING if compiles else WARMING)
        except device.Wrong:
            problems = ["outputs are not finite"]
        self.seconds = SECONDS[self.request["model"]] * random.uniform(0.9, 1.1)
        return {"layout": self.request["settings"]["layout"], "backend": "", "weights": "random:0",
                "problems": problems, "cold": 1.0, "compile": None, "steady": True, "limit": plan["warmup"], "calls": 3,
                "seconds": self.seconds, "batch": self.request["settings"]["batch"]}  # fmt: skip

    def turn(self) -> dict[str, Any]:
        device.operate(f"timing {self.name}", max(self.plan["block"] * simulation.speed(), 1.0))
        seconds = self.seconds * random.uniform(0.98, 1.02)
        device.measured(side=self.name, seconds=seconds)
        return {"seconds": seconds, "calls": 8, "host": 0.001, "each": [], "joules": None}

    def finish(self, profile: bool = False) -> dict[str, Any]:
        device.operate(f"canary of {self.name}", FINISHING)
        canary = {"before": {}, "after": {}, "moved": random.uniform(0.0, 0.04), "work": "copy", "size": {}}
        return {"canary": canary, "launch_bound": False, "ran": {}}

    def memory(self) -> dict[str, Any]:
        device.operate(f"memory of {self.name}", MEMORY)
        value = random.uniform(2e9, 9e9)
        device.measured(side=self.name, memory=value)
        figure = {"metric": "memory", "value": value, "lo": value, "hi": value, "n": 3, "method": "simulated"}
        return {"layout": "channels_last", "backend": "", "weights": "random:0", "problems": [], "figures": [figure]}


def main() -> None:
    """Answer commands until stdin is closed."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    commands = Commands()
    for line in sys.stdin:
        arguments = json.loads(line)
        try:
            answer = getattr(commands, arguments.pop("command"))(**arguments)
        except device.Planted as error:
            oom = isinstance(error, device.OutOfMemory)
            answer = {"error": f"{'OutOfMemoryError' if oom else 'AcceleratorError'}: {error}", "oom": oom}
        channel.write(json.dumps(answer) + "\n")
        channel.flush()


if __name__ == "__main__":
    main()
