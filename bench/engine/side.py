"""What an interleaved measurement compares, and how long it looks, as plain data. Importing this imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.engine.job import Settings

THROUGHPUT, LATENCY, TRAINING = "throughput", "latency", "training"
KINDS = (THROUGHPUT, LATENCY, TRAINING)
"""What can be timed: blocks of inference, single calls at batch 1, training steps."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """One thing to time: a model in a form at a size under settings, of this checkout or of another.

    `settings.batch` is a number here and `settings.device` a device; `settings.layout` may be `auto`, which the first
    process decides for all. `root` is another checkout: its `overlock` and `baselines` are then measured, with this
    one's `bench`, so that both sides are timed by the same code. `python` is another interpreter (an environment with
    other libraries), `env` are variables of the process.
    """

    model: str
    form: str
    resolution: tuple[int, int]  # height, width
    settings: Settings
    task: str = "classification"
    head: str = ""  # of a detector
    label: str = ""
    root: str = ""
    python: str = ""
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.label or f"{self.model} {self.form}"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Side:
        settings = Settings.from_dict(values["settings"])
        return cls(**{**values, "resolution": tuple(values["resolution"]), "settings": settings})


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long to look. In each round every side gets a fresh process, and in it `turns` blocks of about `block`
    seconds (one call at least), taken in turn with the other sides' (ABBA)."""

    rounds: int = 5
    seconds: float = 0.0  # rounds go on while another one fits this time (`bench.compare` alone), up to MOST_ROUNDS
    turns: int = 4
    block: float = 0.3
    warmup: float = 1.5  # seconds at most
    canary_limit: float = 0.02  # a canary that moves more than this sets its round aside
    timeout: float = 900.0  # seconds that a process may take for one answer

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


MOST_ROUNDS = 12
ENERGY_BLOCK = 2.0
"""Least seconds of a block whose energy is wanted: a card's counter moves in steps of 20 to 100 ms."""

DEFAULT = Plan()
QUICK = Plan(rounds=2, turns=2, block=0.2, warmup=0.5)
