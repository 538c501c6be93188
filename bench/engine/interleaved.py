"""Sides measured in turn, in fresh processes, over rounds: the engine of every timed figure. Imports no torch.

A round starts one fresh process for each side. They load at the same time, warm up one after another, and then take
their blocks in turn: A B B A A B B A. So what the machine does meanwhile meets all sides alike, and the ratio of two
sides is that of neighbouring blocks.

On CUDA the processes of a round run one after another, so that none holds memory or a context beside the one measured,
unless the plan says otherwise; elsewhere they wait beside each other, and fall back to one after another if memory does
not suffice for all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bench.cli import BadInput
from bench.engine.outcome import Outcome, Replicate
from bench.engine.plan import (
    DEFAULT,
    LEAST_ROUNDS,
    LEAST_TURNS,
    LONGEST_TURNS,
    MOST_ROUNDS,
    SECONDS_OF_TURNS,
    SETTLED,
    Plan,
)
from bench.engine.process import Failed, Process
from bench.engine.request import Request
from bench.engine.statistics import error_of_median, rounds_needed

Progress = Callable[[str], None]
Seen = Callable[[int, int, dict[str, Any]], None]
"""Called with a side, a round and what one of its blocks measured, as soon as it is known."""


def measure(
    sides: Sequence[Request],
    plan: Plan = DEFAULT,
    begun: Progress = lambda what: None,
    outcome: Outcome | None = None,
    seen: Seen = lambda side, round, block: None,
    known: Progress = lambda line: None,
    meanwhile: Callable[[], None] = lambda: None,
) -> Iterator[Outcome]:
    """Measure sides of one kind in turn; yields what is known after each round, the same object growing.

    `begun` is called with what comes next, in words, `seen` with each block, and `known` with the figures so far as
    soon as a round has timed all its blocks; `meanwhile` is what to do, once, while the first processes load. Given an
    earlier `outcome` of the same sides, `plan.rounds` more are added.

    With `plan.precision` there are two stages (Stein): the spread of the first `plan.rounds` rounds decides how many
    make all ratios to the last side that precise, once, and no later round is looked at. `plan.seconds` ends both.

    Raises:
        BadInput: if a side cannot be measured for a reason that is the user's.
    """
    assert len({side.kind for side in sides}) == 1, "sides of one kind are measured in turn"
    outcome = outcome or Outcome.of_none(sides, plan)
    beside = not sides[0].settings.device.startswith("cuda") if plan.beside is None else plan.beside
    run = _Run(outcome, plan, begun, seen, known, [meanwhile], beside)
    done, end, wanted, took = outcome.rounds, time.monotonic() + plan.seconds, plan.rounds, 0.0
    while not all(outcome.gone):
        r, begin = outcome.rounds, time.monotonic()
        if r - done >= wanted or (r - done >= LEAST_ROUNDS and begin + took > end):
            return
        try:
            run.round(r, first=r == 0)
        except BaseException:  # a round that is interrupted is none, unless all its blocks are timed: they were shown
            if any(own[r] is None for own, gone in zip(outcome.replicates, outcome.gone, strict=True) if not gone):
                for replicates in outcome.replicates:
                    del replicates[r:]
            raise
        took = time.monotonic() - begin
        if plan.precision and r + 1 == plan.rounds:
            outcome.first = r + 1
            wanted = min(MOST_ROUNDS, rounds_wanted(outcome, plan.precision))
        yield outcome


def rounds_wanted(outcome: Outcome, precision: float) -> int:
    """How many rounds make each side's ratio to the last one as precise; of a single side, its speed."""
    last = len(outcome.sides) - 1
    pairs = [outcome.round_ratios(i, last) for i in range(last)] or [outcome.samples(last)]
    return max(outcome.rounds, *(rounds_needed(ratios, precision) for ratios in pairs))


def turns_of(seconds: Sequence[float], plan: Plan) -> int:
    """How many turns a round has, an even number where it is not the plan's, by the seconds of a call of each side."""
    once = sum(max(plan.block, one) for one in seconds)
    return min(plan.turns, max(LEAST_TURNS, int(SECONDS_OF_TURNS / once) // 2 * 2)) if once else plan.turns


def settled(replicates: Sequence[Replicate]) -> bool:
    """Whether the ratios of a round's sides to the last one are known well enough by its neighbouring blocks.

    It asks how far the blocks lie apart, not what they say, and treats both sides alike: so it favours no answer.
    """
    ratios = [one.log_ratios(replicates[-1]) for one in replicates[:-1]]
    return all(error_of_median(logs) <= SETTLED for logs in ratios)


@dataclass
class _Run:
    """The rounds of one measurement: what is known, and whether the sides' processes wait beside each other."""

    outcome: Outcome
    plan: Plan
    begun: Progress
    seen: Seen
    known: Progress
    meanwhile: list[Callable[[], None]]  # what is still to be done while processes load
    beside: bool

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
            while self.meanwhile:
                self.meanwhile.pop()()
            each(order, "loading", lambda i: self._loaded(i, processes[i]))
            each(order, "warming up", lambda i: live.__setitem__(i, self._warm(i, processes[i], check=first)))
            turn, turns = 0, turns_of([one.warm["seconds"] for one in live.values()], self.plan)
            end = time.monotonic() + LONGEST_TURNS
            while turn < turns or (
                turn < self.plan.most_turns and time.monotonic() < end and not settled([live[i] for i in processes])
            ):
                forth = order if turn % 2 == 0 else order[::-1]
                each(forth, f"block {turn + 1}", lambda i: self._block(i, r, processes[i], live[i]))
                turn += 1
            for i in processes:
                self.outcome.replicates[i][r] = live[i]
            self.known(self.outcome.interim())
            each(
                order,
                "canary",
                lambda i: live[i].last.update(processes[i].call("finish", profile=first and not self.plan.rough)),
            )
            for i in live.keys() - processes.keys():  # lost after their blocks
                self.outcome.replicates[i][r] = None
        finally:
            for process in processes.values():
                process.end()
        return starved

    def _start(self, i: int) -> Process:
        side = self.outcome.sides[i]
        process = Process(side.settings, side, self.plan.timeout)
        process.ask("prepare", request=side.to_dict())
        return process

    def _loaded(self, i: int, process: Process) -> None:
        root = self.outcome.sides[i].root
        for package, where in process.answer()["sources"].items():
            if root and Path(where) != Path(root).resolve():
                raise BadInput(f"{root} was to be measured, and {package} was imported from {where}: install it there")

    def _block(self, i: int, r: int, process: Process, replicate: Replicate) -> None:
        block = process.call("turn")
        replicate.add(block)
        self.seen(i, r, block)

    def _warm(self, i: int, process: Process, check: bool) -> Replicate:
        warm = process.call("warm", plan=asdict(self.plan), check=check)
        side = self.outcome.sides[i]
        if side.settings.layout == "auto":  # what the first process found faster holds for the others
            self.outcome.sides[i] = replace(side, settings=replace(side.settings, layout=warm["layout"]))
        warm["process"] = process.how
        if process.why_not_forked:
            self.outcome.note(f"fresh interpreters: {process.why_not_forked}")
        return Replicate(warm)
