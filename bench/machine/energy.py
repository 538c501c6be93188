"""Energy of a block of calls, where the device counts it."""

from __future__ import annotations

import functools

import torch

from bench.machine import nvml


def joules(device: torch.device) -> float | None:
    """Energy in joules that the device has used so far; None if it has no counter."""
    return nvml.joules(uuid(device)) if device.type == "cuda" else None


@functools.cache
def uuid(device: torch.device) -> str:
    """The name by which NVML knows a CUDA device; empty if PyTorch does not have it."""
    name = getattr(torch.cuda.get_device_properties(device), "uuid", "")
    return f"GPU-{name}" if name else ""
