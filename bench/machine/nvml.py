"""A card's energy, clocks, throttling, power limit and other processes, from NVIDIA's management library (NVML).

nvidia-ml-py is optional: without it, or without a card, these are empty and no energy is claimed. Importing this
imports no torch.
"""

from __future__ import annotations

import functools
import logging
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)


@functools.cache
def uuid(device: torch.device | str) -> str:
    """The name by which NVML knows a CUDA device."""
    import torch

    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"


@functools.cache
def handle(uuid: str) -> Any:
    """NVML's handle of the card with a UUID (`GPU-...`); None if there is none."""
    try:
        import pynvml
    except ImportError:
        log.info("no energy and no clocks: nvidia-ml-py is not installed")
        return None
    try:
        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetHandleByUUID(uuid)
    except pynvml.NVMLError as error:
        log.info("NVML does not know %s: %s", uuid, error)
        return None


def joules(uuid: str) -> float | None:
    """Joules used by the card since the driver was loaded; None if it has no counter (cards before Volta)."""
    card = handle(uuid)
    if card is None:
        return None
    import pynvml

    try:
        return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(card)) / 1e3
    except pynvml.NVMLError:
        return None


def state(uuid: str) -> dict[str, Any]:
    """Clocks (MHz), temperature (C), power and its limit (W), throttle reasons and other processes, as far as known."""
    card = handle(uuid)
    if card is None:
        return {}
    import pynvml

    asked = {
        "sm_mhz": lambda: pynvml.nvmlDeviceGetClockInfo(card, pynvml.NVML_CLOCK_SM),
        "memory_mhz": lambda: pynvml.nvmlDeviceGetClockInfo(card, pynvml.NVML_CLOCK_MEM),
        "temperature_c": lambda: pynvml.nvmlDeviceGetTemperature(card, pynvml.NVML_TEMPERATURE_GPU),
        "power_w": lambda: pynvml.nvmlDeviceGetPowerUsage(card) / 1e3,
        "power_limit_w": lambda: pynvml.nvmlDeviceGetEnforcedPowerLimit(card) / 1e3,
        "throttle_reasons": lambda: throttle_reasons(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(card)),
        "other_processes": lambda: sorted(
            p.pid for p in pynvml.nvmlDeviceGetComputeRunningProcesses(card) if p.pid != os.getpid()
        ),
    }
    values = {}
    for name, ask in asked.items():
        try:
            values[name] = ask()
        except pynvml.NVMLError as error:
            log.info("NVML has no %s: %s", name, error)
    return values


REASONS = {
    0x4: "power cap", 0x8: "hardware slowdown", 0x10: "sync boost", 0x20: "thermal (software)",
    0x40: "thermal (hardware)", 0x80: "power brake", 0x2: "application clocks",
}  # fmt: skip


def throttle_reasons(mask: int) -> list[str]:
    """NVML's mask in words; idling is left out."""
    return [word for bit, word in REASONS.items() if mask & bit]
