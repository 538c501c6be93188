"""Sides measured in turn, in fresh processes, over rounds: the engine of every timed figure. Imports no torch.

A round starts one fresh process for each side. They load at the same time, warm up one after another, and then take
their blocks in turn: A B B A A B B A. So what the machine does meanwhile meets all sides alike, and the ratio of two
sides is that of neighbouring blocks. Rounds, not blocks, are what intervals are computed over: where a process's memory
lies and which kernels it chose stay the same for its whole life.

On CUDA the processes of a round run one after another, so that none holds memory or a context beside the one measured;
elsewhere they wait beside each other, and fall back to one after another if memory does not suffice for all.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from bench.cli import BadInput
from bench.engine.plan import DEFAULT, MOST_ROUNDS, Plan
from bench.engine.process import Failed, Process
from bench.engine.request import Request
from bench.engine.statistics import ODD, Ratio, odd_round, ratio_of_rounds

Progress = Callable[[str], None]


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
    """What an interleaved measurement found: for each side and round the replicate, or None where there is none."""

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
            found = replicates[round]
            if found is not None and found.moved > self.plan.canary_limit:
                work = found.last["canary"]["work"]
                return f"round {round + 1}: the canary's {work} moved {found.moved:.1%} beside {side.name}"
        return ""

    def clean(self) -> list[int]:
        """The rounds that no canary disturbed."""
        return [r for r in range(self.rounds) if not self.disturbed(r)]

    def odd(self) -> int | None:
        """The one round that a process far off its side's others makes useless, if there is one."""
        clean = self.clean()
        seconds = [[found.seconds if (found := of_side[r]) else None for r in clean] for of_side in self.replicates]
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
            told = f"{self.rounds - len(clean)} of {self.rounds} rounds ({worst})"
            return (f"the canary moved over {limit:.1%} in {told}",)
        aside = [r for r in self._rounds_of(*sides) if r not in self.counted()]
        told = "; ".join(self.disturbed(r) or f"round {r + 1}: a process far off its side's others" for r in aside)
        return (f"no undisturbed round is left where processes were lost ({told})",) if aside else ()

    def _rounds_of(self, *sides: int) -> list[int]:
        """The rounds that figures of these sides are computed from: none that counts lacks for a lost process."""
        both = [r for r in range(self.rounds) if all(self.replicates[side][r] is not None for side in sides)]
        return [r for r in both if r in self.counted()] or both

    def of(self, side: int) -> list[Replicate]:
        """The replicates of a side that its figures are computed from."""
        found = (self.replicates[side][r] for r in self._rounds_of(side))
        return [replicate for replicate in found if replicate is not None]

    def samples(self, side: int) -> list[float]:
        """Seconds a call of a side, one figure a process."""
        return [replicate.seconds for replicate in self.of(side)]

    def round_ratios(self, side: int, base: int) -> list[float]:
        """How much faster `side` does an image than `base`, for each round that both have and that counts.

        Within a round it is the median of neighbouring blocks' ratios.
        """
        found = []
        for r in self._rounds_of(side, base):
            a, b = self.replicates[side][r], self.replicates[base][r]
            assert a is not None
            assert b is not None
            images = a.warm["batch"] / b.warm["batch"]
            logs = [math.log(images * y / x) for x, y in zip(a.blocks, b.blocks, strict=True)]
            found.append(math.exp(median(logs)))
        return found

    def ratio(self, side: int, base: int) -> Ratio | None:
        """`side`'s speed relative to `base`'s (above 1: faster) with its 95 % interval; None without common rounds."""
        ratios = self.round_ratios(side, base)
        return ratio_of_rounds(ratios) if ratios else None

    def notes_of(self, side: int) -> list[str]:
        """What a reader should know of a side's figures."""
        found = self.of(side)
        notes = list(self.notes)
        unsettled = sum(not r.warm["steady"] for r in found)
        if unsettled:
            notes.append(
                f"warm-up did not settle within {found[0].warm['limit']:g} s in {unsettled} of {len(found)} processes"
            )
        if any(r.last.get("launch_bound") for r in found):
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
        if lost and found:
            count = f"{len(lost)} process{'es' if len(lost) > 1 else ''}"
            notes.append(f"{count} lost: {'; '.join(dict.fromkeys(lost))}")
        return notes


def measure(
    sides: Sequence[Request],
    plan: Plan = DEFAULT,
    begun: Progress = lambda what: None,
    outcome: Outcome | None = None,
) -> Iterator[Outcome]:
    """Measure sides of one kind in turn; yields what is known after each round, the same object growing.

    `begun` is called with what comes next, in words. Given an earlier `outcome` of the same sides, `plan.rounds` more
    are added.

    Raises:
        BadInput: if a side cannot be measured for a reason that is the user's.
    """
    assert len({side.kind for side in sides}) == 1, "sides of one kind are measured in turn"
    if outcome is None:
        count = len(sides)
        outcome = Outcome(list(sides), plan, [[] for _ in range(count)], [[] for _ in range(count)], [False] * count)
    run = _Run(outcome, plan, begun)
    done, begin = outcome.rounds, time.monotonic()
    while not all(outcome.gone):
        r = outcome.rounds
        enough = r - done >= plan.rounds
        if enough and not further_rounds(r - done, time.monotonic() - begin, plan.seconds):
            return
        try:
            run.round(r, first=r == 0)
        except BaseException:  # an interrupted round is none: what is known was measured before it
            for replicates in outcome.replicates:
                del replicates[r:]
            raise
        yield outcome


def further_rounds(done: int, took: float, seconds: float) -> int:
    """How many more rounds fit `seconds`, as long as those done. It depends on time and never on what they found."""
    fit = int((seconds - took) * done / took) if took else 0
    return max(0, min(fit, MOST_ROUNDS - done))


class _Run:
    """The rounds of one measurement: which sides still go, and whether their processes wait beside each other."""

    def __init__(self, outcome: Outcome, plan: Plan, begun: Progress) -> None:
        self.outcome, self.plan, self.begun = outcome, plan, begun
        self.beside = not outcome.sides[0].settings.device.startswith("cuda")

    def round(self, r: int, first: bool) -> None:
        """One fresh process for each side that goes on."""
        order = [i for i in range(len(self.outcome.sides)) if not self.outcome.gone[i]]
        if r % 2:
            order.reverse()
        for replicates in self.outcome.replicates:
            replicates.append(None)
        starved = self._take(order if self.beside else [], r, first)
        if starved and len(order) > 1:
            self.beside = False
            self.outcome.notes.append("sides measured one after another: memory does not suffice for all at once")
        if not self.beside:
            starved = {}
            for i in order:
                starved |= self._take([i], r, first)
        for i, reason in starved.items():
            self.outcome.replicates[i][r] = None
            self.outcome.lose(i, reason, for_good=True)

    def _take(self, order: Sequence[int], r: int, first: bool) -> dict[int, str]:
        """Replicates of sides whose processes live at the same time; returns those that lacked memory, and why."""
        processes: dict[int, Process] = {}
        live: dict[int, Replicate] = {}
        starved: dict[int, str] = {}

        def each(sides: Sequence[int], what: str, step: Callable[[int], None]) -> None:
            for i in sides:
                if i not in processes:
                    continue
                self.begun(f"{self.outcome.sides[i].name}: round {r + 1}, {what}")
                try:
                    step(i)
                except Failed as error:
                    processes.pop(i).end()
                    if error.oom:
                        starved[i] = error.reason
                    else:
                        self.outcome.lose(i, error.reason, for_good=not error.ended)

        try:
            for i in order:
                processes[i] = self._start(i)
            each(order, "loading", lambda i: self._loaded(i, processes[i]))
            each(order, "warming up", lambda i: live.__setitem__(i, self._warm(i, processes[i], check=first)))
            for turn in range(self.plan.turns):
                forth = order if turn % 2 == 0 else order[::-1]
                each(forth, f"block {turn + 1}", lambda i: live[i].add(processes[i].call("turn")))
            each(order, "canary", lambda i: live[i].last.update(processes[i].call("finish", profile=first)))
            for i in processes:
                self.outcome.replicates[i][r] = live[i]
        finally:
            for process in processes.values():
                process.end()
        return starved

    def _start(self, i: int) -> Process:
        side = self.outcome.sides[i]
        process = Process(side.settings.threads, side, self.plan.timeout)
        process.ask("prepare", request=side.to_dict())
        return process

    def _loaded(self, i: int, process: Process) -> None:
        root = self.outcome.sides[i].root
        for package, where in process.answer()["sources"].items():
            if root and Path(where) != Path(root).resolve():
                raise BadInput(f"{root} was to be measured, and {package} was imported from {where}: install it there")

    def _warm(self, i: int, process: Process, check: bool) -> Replicate:
        warm = process.call("warm", plan=self.plan.to_dict(), check=check)
        side = self.outcome.sides[i]
        if side.settings.layout == "auto":  # what the first process found faster holds for the others
            self.outcome.sides[i] = replace(side, settings=replace(side.settings, layout=warm["layout"]))
        return Replicate(warm)
