"""What NVIDIA's management library tells of a card: energy, clocks, throttling, power limit, who else uses it.

nvidia-ml-py is optional: without it, or without a card, nothing is told and no energy is claimed. Imports no torch.
"""

from __future__ import annotations

import functools
import logging
import os
from typing import Any

log = logging.getLogger(__name__)


@functools.cache
def handle(uuid: str) -> Any:
    """NVML's handle of the card of a UUID (`GPU-...`); None where there is none."""
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
    """Energy used by the card since the driver was loaded; None where it is not counted (cards before Volta)."""
    card = handle(uuid)
    if card is None:
        return None
    import pynvml

    try:
        return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(card)) / 1e3
    except pynvml.NVMLError:
        return None


def state(uuid: str) -> dict[str, Any]:
    """Clocks (MHz), temperature (C), power and its limit (W), throttle reasons, processes of others; what is told."""
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
    told = {}
    for name, ask in asked.items():
        try:
            told[name] = ask()
        except pynvml.NVMLError as error:
            log.info("NVML does not tell %s: %s", name, error)
    return told


REASONS = {
    0x4: "power cap", 0x8: "hardware slowdown", 0x10: "sync boost", 0x20: "thermal (software)",
    0x40: "thermal (hardware)", 0x80: "power brake", 0x2: "application clocks",
}  # fmt: skip


def throttle_reasons(mask: int) -> list[str]:
    """NVML's mask in words, idling left out."""
    return [word for bit, word in REASONS.items() if mask & bit]
