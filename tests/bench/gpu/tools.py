"""A part's sink whose messages are read by a test, and a simulation in this process."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import Any

import pytest

from bench.gpu import simulation
from bench.gpu.failures import begin
from bench.gpu.sink import Sink


class Heard(Sink):
    """A sink that keeps its messages."""

    def __init__(self, folder: Path, seconds: float = 1e6, device: str = "cuda", skip: int = 0) -> None:
        super().__init__("headline", folder, time.time() + seconds, False, device, io.StringIO(), skip)

    @property
    def messages(self) -> list[dict[str, Any]]:
        assert isinstance(self.channel, io.StringIO)
        return [json.loads(line) for line in self.channel.getvalue().splitlines()]

    def told(self, what: str) -> list[Any]:
        return [message[what] for message in self.messages if what in message]


def simulate(monkeypatch: pytest.MonkeyPatch, folder: Path, *plants: str, speed: float = 500) -> None:
    """Have this process be a part of a simulated run."""
    monkeypatch.setenv(simulation.VARIABLE, str(folder))
    monkeypatch.setenv(simulation.PART, "headline")
    simulation.plan.cache_clear()
    begin(plants, speed, folder)
    simulation.part_begins("headline")
