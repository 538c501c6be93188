"""The simulated `bench.gpu.warming`."""

from __future__ import annotations

import json
import sys

from bench.gpu.simulation import device

if __name__ == "__main__":
    request = json.loads(sys.argv[1])
    seconds = 25.0 if request["settings"]["compile"] == "default" else 12.0
    if request["label"].startswith("kernels"):
        seconds = 35.0
    device.operate(f"compiling {request['label']}", seconds)
