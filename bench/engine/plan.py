"""How long an interleaved measurement looks, as plain data."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long to look. In each round every side gets a fresh process, and in it blocks of about `block` seconds (one
    call at least), taken in turn with the other sides' (ABBA): `turns` of them, and where neighbouring blocks disagree
    more, `most_turns` at most."""

    rounds: int = 4  # of the first stage; all, where no precision is asked for
    precision: float = 0.0  # half the width of the ratios' intervals at which to aim, relative: see `measure`
    seconds: float = math.inf  # no round is begun after the second that would not fit this time
    turns: int = 10  # fewer of long calls
    most_turns: int = 24
    block: float = 0.1
    warmup: float = 0.6  # seconds at most
    canary_limit: float = 0.02  # a machine whose canary moves more than this is noisy
    rough: bool = False  # automatic batches are halved on a CPU, and the operators that ran are not looked up
    timeout: float = 900.0  # seconds that a process may take for one answer
    beside: bool | None = None  # whether a round's processes live at the same time; None: elsewhere than on CUDA


LEAST_ROUNDS, MOST_ROUNDS = 2, 40
LEAST_TURNS, SECONDS_OF_TURNS = 2, 3.0
"""The turns of a round take about these seconds, which is about what loading and warming up take; two at least."""

SETTLED, LONGEST_TURNS = 0.05, 12.0
"""More turns follow until the median over neighbouring blocks is known to this fraction, or the seconds are over."""

ENERGY_BLOCK = 2.0
"""Least seconds of a block whose energy is wanted: a card's counter moves in steps of 20 to 100 ms."""

DEFAULT = Plan()
QUICK = Plan(rounds=2, turns=2, most_turns=2, block=0.2, warmup=0.3, rough=True)
