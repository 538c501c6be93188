"""What an interleaved measurement knows: each side's processes by round, which rounds count, and their ratios.

Rounds, not blocks, are what intervals are computed over: where a process's memory lies and which kernels it chose stay
the same for its whole life.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from bench.engine.plan import Plan
from bench.engine.request import Request
from bench.engine.statistics import ODD, Ratio, odd_round, ratio_of_rounds


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

    def lose(self, side: int, reason: str, for_good: bool) -> None:
        """Note why a replicate is missing; a side whose processes are killed twice is given up too."""
        self.failures[side].append(reason)
        self.gone[side] = self.gone[side] or for_good or len(self.failures[side]) > 1

    @property
    def rounds(self) -> int:
        return max(map(len, self.replicates), default=0)

    def disturbed(self, round: int) -> str:
        """Why a round is set aside: the canary moved in one of its processes. Empty if it did not."""
        for side, replicates in zip(self.sides, self.replicates, strict=True):
            replicate = replicates[round]
            if replicate is not None and replicate.moved > self.plan.canary_limit:
                work = replicate.last["canary"]["work"]
                return f"round {round + 1}: the canary's {work} moved {replicate.moved:.1%} beside {side.name}"
        return ""

    def clean(self) -> list[int]:
        """The rounds that no canary disturbed."""
        return [r for r in range(self.rounds) if not self.disturbed(r)]

    def odd(self) -> int | None:
        """The one round that a process far off its side's others makes useless, if there is one."""
        clean = self.clean()
        seconds = [[one.seconds if (one := of_side[r]) else None for r in clean] for of_side in self.replicates]
        odd = odd_round(seconds)
        return None if odd is None else clean[odd]

    def counted(self) -> list[int]:
        """The rounds that figures are computed from: undisturbed, and without an odd one; all if half are disturbed."""
        clean = self.clean()
        if 2 * len(clean) < self.rounds:
            return list(range(self.rounds))
        return [r for r in clean if r != self.odd()]

    def invalid(self, *sides: int) -> tuple[str, ...]:
        """Why no figure of this measurement, or none that is of all these sides, is valid.

        The canary moved in most rounds, or the sides have replicates together in rounds alone that are set aside (a
        process was lost in the others): those are shown, since they are what there is, and marked with this.
        """
        clean, limit = self.clean(), self.plan.canary_limit
        if 2 * len(clean) < self.rounds:
            worst = next(self.disturbed(r) for r in range(self.rounds) if r not in clean)
            which = f"{self.rounds - len(clean)} of {self.rounds} rounds ({worst})"
            return (f"the canary moved over {limit:.1%} in {which}",)
        aside = [r for r in self._rounds_of(*sides) if r not in self.counted()]
        why = "; ".join(self.disturbed(r) or f"round {r + 1}: a process far off its side's others" for r in aside)
        return (f"no undisturbed round is left where processes were lost ({why})",) if aside else ()

    def _rounds_of(self, *sides: int) -> list[int]:
        """The rounds that figures of these sides are computed from: none that counts lacks for a lost process."""
        both = [r for r in range(self.rounds) if all(self.replicates[side][r] is not None for side in sides)]
        return [r for r in both if r in self.counted()] or both

    def of(self, side: int) -> list[Replicate]:
        """The replicates of a side that its figures are computed from."""
        replicates = (self.replicates[side][r] for r in self._rounds_of(side))
        return [replicate for replicate in replicates if replicate is not None]

    def samples(self, side: int) -> list[float]:
        """Seconds a call of a side, one figure a process."""
        return [replicate.seconds for replicate in self.of(side)]

    def round_ratios(self, side: int, base: int) -> list[float]:
        """How much faster `side` does an image than `base`, for each round that both have and that counts.

        Within a round it is the median of neighbouring blocks' ratios.
        """
        ratios = []
        for r in self._rounds_of(side, base):
            a, b = self.replicates[side][r], self.replicates[base][r]
            assert a is not None
            assert b is not None
            images = a.warm["batch"] / b.warm["batch"]
            logs = [math.log(images * y / x) for x, y in zip(a.blocks, b.blocks, strict=True)]
            ratios.append(math.exp(median(logs)))
        return ratios

    def ratio(self, side: int, base: int) -> Ratio | None:
        """`side`'s speed relative to `base`'s (above 1: faster) with its 95 % interval; None without common rounds."""
        ratios = self.round_ratios(side, base)
        return ratio_of_rounds(ratios) if ratios else None

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
        aside = self.rounds - len(self.clean())
        if aside and not self.invalid():
            notes.append(
                f"{aside} of {self.rounds} rounds set aside: the canary moved over {self.plan.canary_limit:.1%}"
            )
        odd = self.odd()
        if odd is not None and odd not in self.counted():
            notes.append(f"round {odd + 1} set aside: a process over {ODD:g} times off its side's other ones")
        lost = self.failures[side]
        if lost and replicates:
            count = f"{len(lost)} process{'es' if len(lost) > 1 else ''}"
            notes.append(f"{count} lost: {'; '.join(dict.fromkeys(lost))}")
        return notes
