"""Energy of a block of calls, where the device counts it."""

from __future__ import annotations

import functools

import torch

from bench.machine import nvml


def joules(device: torch.device) -> float | None:
    """Energy that the device has used so far; None where nothing tells."""
    return nvml.joules(uuid(device)) if device.type == "cuda" else None


@functools.cache
def uuid(device: torch.device) -> str:
    """The name that NVML knows a CUDA device by; empty where PyTorch does not tell it."""
    found = getattr(torch.cuda.get_device_properties(device), "uuid", "")
    return f"GPU-{found}" if found else ""
