"""What an interleaved measurement knows: each side's processes by round, and the ratios of the sides.

Rounds, not blocks, are what intervals are computed over: where a process's memory lies and which kernels it chose stay
the same for its whole life.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any

from bench.engine.plan import Plan
from bench.engine.request import Request
from bench.engine.statistics import ODD, Ratio, odd_round, ratio_of_rounds
from bench.metrics import LATENCY


@dataclass
class Replicate:
    """What one process of a side measured: the seconds of a call in each block, and under what conditions."""

    warm: dict[str, Any]
    blocks: list[float] = field(default_factory=list)  # seconds a call
    each: list[float] = field(default_factory=list)  # seconds of every call, for latency
    energy: list[float] = field(default_factory=list)  # joules an image, where the device counts them
    last: dict[str, Any] = field(default_factory=dict)  # the answer to `finish`

    def add(self, block: dict[str, Any]) -> None:
        """Add what one turn measured."""
        self.blocks.append(block["seconds"])
        self.each += block["each"]
        if block["joules"] is not None:
            self.energy.append(block["joules"] / (block["calls"] * self.warm["batch"]))

    @property
    def seconds(self) -> float:
        """Median seconds a call."""
        return median(self.blocks)

    def log_ratios(self, base: Replicate) -> list[float]:
        """How much faster it does an image than `base`, block by neighbouring block, as logarithms."""
        images = self.warm["batch"] / base.warm["batch"]
        return [math.log(images * y / x) for x, y in zip(self.blocks, base.blocks, strict=True)]

    @property
    def images_per_second(self) -> float:
        return float(self.warm["batch"]) / self.seconds

    @property
    def moved(self) -> float:
        """How far the canary moved over this process's turns, relative."""
        return float(self.last["canary"]["moved"])


@dataclass
class Outcome:
    """What is known of an interleaved measurement: each side's replicates by round, None where one is missing."""

    sides: list[Request]
    plan: Plan
    replicates: list[list[Replicate | None]]  # by side, then round
    failures: list[list[str]]  # by side: why replicates are missing, a reason each
    gone: list[bool]  # by side: whether there is no use in further rounds of it
    notes: list[str] = field(default_factory=list)
    first: int = 0  # the rounds whose spread decided how many there are; 0 where none did

    @classmethod
    def of_none(cls, sides: Sequence[Request], plan: Plan) -> Outcome:
        """Nothing is known yet."""
        return cls(list(sides), plan, [[] for _ in sides], [[] for _ in sides], [False] * len(sides))

    def lose(self, side: int, reason: str, for_good: bool) -> None:
        """Note why a replicate is missing; a side whose processes are killed twice is given up too."""
        self.failures[side].append(reason)
        self.gone[side] = self.gone[side] or for_good or len(self.failures[side]) > 1

    def note(self, line: str) -> None:
        """Note what holds for all sides, once."""
        if line not in self.notes:
            self.notes.append(line)

    @property
    def rounds(self) -> int:
        return max(map(len, self.replicates), default=0)

    def _of_round(self, round: int) -> list[Replicate | None]:
        return [replicates[round] for replicates in self.replicates]

    def moved(self, round: int) -> tuple[float, str]:
        """How far a canary moved at most in a round's processes, and beside what: "copy beside convnext_b deploy".

        Of a round whose canaries have not been read again yet, nothing is known: 0.
        """
        moves = [(0.0, "")]
        for side, one in zip(self.sides, self._of_round(round), strict=True):
            if one is not None and one.last:
                moves.append((one.moved, f"{one.last['canary']['work']} beside {side.name}"))
        return max(moves)

    def clean(self) -> list[int]:
        """The rounds in which no canary moved further than it may, as far as the canaries have been read again."""
        read = [r for r in range(self.rounds) if all(one is None or one.last for one in self._of_round(r))]
        return [r for r in read if self.moved(r)[0] <= self.plan.canary_limit]

    def noise(self) -> float | None:
        """How far the machine moved at most, if that is further than it may."""
        most = max((self.moved(r)[0] for r in range(self.rounds)), default=0.0)
        return most if most > self.plan.canary_limit else None

    def odd(self) -> int | None:
        """The one round that a process far off its side's others makes useless, if there is one."""
        return odd_round([[one.seconds if one else None for one in of_side] for of_side in self.replicates])

    def _rounds_of(self, *sides: int) -> list[int]:
        """The rounds that figures of these sides are computed from: all but an odd one, unless it is all there is."""
        both = [r for r in range(self.rounds) if all(self.replicates[side][r] is not None for side in sides)]
        return [r for r in both if r != self.odd()] or both

    def of(self, side: int) -> list[Replicate]:
        """The replicates of a side that its figures are computed from."""
        replicates = (self.replicates[side][r] for r in self._rounds_of(side))
        return [replicate for replicate in replicates if replicate is not None]

    def samples(self, side: int) -> list[float]:
        """Seconds a call of a side, one figure a process."""
        return [replicate.seconds for replicate in self.of(side)]

    def round_ratios(self, side: int, base: int, rounds: Sequence[int] | None = None) -> list[float]:
        """How much faster `side` does an image than `base`, for each round that both have and that counts.

        Within a round it is the median of neighbouring blocks' ratios.
        """
        ratios = []
        for r in self._rounds_of(side, base) if rounds is None else rounds:
            a, b = self.replicates[side][r], self.replicates[base][r]
            assert a is not None
            assert b is not None
            ratios.append(math.exp(median(a.log_ratios(b))))
        return ratios

    def ratio(self, side: int, base: int) -> Ratio | None:
        """`side`'s speed relative to `base`'s (above 1: faster) with its 95 % interval; None without common rounds.

        All rounds count, also those in which the machine moved: they were shared by both sides. Where the rounds in
        which it did not move say something else, the interval reaches as much further.
        """
        rounds = self._rounds_of(side, base)
        if not rounds:
            return None
        ratios = self.round_ratios(side, base, rounds)
        clean = [math.log(ratio) for r, ratio in zip(rounds, ratios, strict=True) if r in self.clean()]
        apart = abs(fmean(clean) - fmean(map(math.log, ratios))) if clean else 0.0
        return ratio_of_rounds(ratios, sum(r < self.first for r in rounds), apart)

    def interim(self) -> str:
        """What is known so far, in a line: figures, and the ratio of each side to the last one."""
        known = [i for i in range(len(self.sides)) if self.samples(i)]
        of_one = self.sides[0].kind == LATENCY
        rates = {i: median(1e3 * r.seconds if of_one else r.images_per_second for r in self.of(i)) for i in known}
        figures = ", ".join(f"{self.sides[i].name} {rates[i]:.3g}" for i in known)
        ratios = []
        for i in known[:-1]:
            ratio = self.ratio(i, known[-1])
            if ratio is not None:
                spread = f" [{ratio.lo:.2f}, {ratio.hi:.2f}]" if ratio.n > 1 else ""
                ratios.append(f"{ratio.value:.2f}x{spread}")
        unit = "ms" if of_one else "images/s"
        rounds = f"{self.rounds} round{'s' if self.rounds > 1 else ''}"
        return f"{figures} {unit}" + (f"; {', '.join(ratios)}" if ratios else "") + f" after {rounds}"

    def notes_of(self, side: int) -> list[str]:
        """What a reader should know of a side's figures."""
        replicates = self.of(side)
        notes = list(self.notes)
        unsettled = sum(not r.warm["steady"] for r in replicates)
        if unsettled:
            notes.append(
                f"warm-up did not settle within {replicates[0].warm['limit']:g} s "
                f"in {unsettled} of {len(replicates)} processes"
            )
        if any(r.last.get("launch_bound") for r in replicates):
            notes.append("launch bound: the host is no quicker than the device")
        if self.noise() is not None:
            most, what = max(self.moved(r) for r in range(self.rounds))
            count = f"{self.rounds - len(self.clean())} of {self.rounds} rounds"
            notes.append(f"noisy: the machine moved in {count}, by {most:.0%} at most (the canary's {what})")
        odd = self.odd()
        if odd is not None and odd not in self._rounds_of(side):
            notes.append(f"round {odd + 1} set aside: a process over {ODD:g} times off its side's other ones")
        lost = self.failures[side]
        if lost and replicates:
            count = f"{len(lost)} process{'es' if len(lost) > 1 else ''}"
            notes.append(f"{count} lost: {'; '.join(dict.fromkeys(lost))}")
        return notes
