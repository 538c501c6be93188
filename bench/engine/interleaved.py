"""Sides measured in turn, in fresh processes, over rounds: the engine of every timed figure. Imports no torch.

A round starts one fresh process for each side. They load at the same time, warm up one after another, and then take
their blocks in turn: A B B A A B B A. So what the machine does meanwhile meets all sides alike, and the ratio of two
sides is that of neighbouring blocks.

On CUDA the processes of a round run one after another, so that none holds memory or a context beside the one measured;
elsewhere they wait beside each other, and fall back to one after another if memory does not suffice for all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from bench.cli import BadInput
from bench.engine.outcome import Outcome, Replicate
from bench.engine.plan import DEFAULT, MOST_ROUNDS, Plan
from bench.engine.process import Failed, Process
from bench.engine.request import Request

Progress = Callable[[str], None]


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
        process = Process(side.settings, side, self.plan.timeout)
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
