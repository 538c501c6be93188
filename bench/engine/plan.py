"""How long an interleaved measurement looks, as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


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
