"""A part of the GPU run: the ratios of two models, each from one interleaved measurement.

Two sides come first, in two rounds, so that there is a ratio whatever happens afterwards. Then every other way to run
either model is tried once, and where others are the fastest of their models, these two are measured in rounds of their
own: those count in no choice. Every block is handed over as soon as it is timed, and records after every round.

The processes of a pair live at the same time, so that blocks come in the order A B B A within seconds and meet the same
clocks. Experimental: it has not run on a GPU.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

from bench.engine.figures import records_of
from bench.engine.interleaved import measure
from bench.engine.outcome import Outcome
from bench.engine.passes import measured
from bench.engine.plan import Plan
from bench.gpu import simulation
from bench.gpu.configurations import (
    COMPILED,
    COMPILED_TRAINING,
    HEADLINE,
    PLAIN,
    TINY,
    TINY_TRAINING,
    TRAINING_SIDES,
    Configuration,
    requests,
)
from bench.gpu.parts import WARMED, WINNERS, arguments
from bench.gpu.sink import Sink, sink
from bench.metrics import MEMORY, THROUGHPUT, TRAINING, of_kind
from bench.records.record import Record

OF_T, OF_PLAIN, OF_STEP = (
    "OverLoCK-T deploy / ConvNeXt-B",
    "OverLoCK-T deploy / its plain form",
    "OverLoCK-XT / ConvNeXt-T, training step",
)
"""The ratios' names: the notes of their records begin with them."""

GPU_CANARY = 0.08
"""How far the canary may move before a round is called noisy. A card that is capped in power changes its clock with
every load by several percent, which the order A B B A cancels; nothing has been measured yet that says by how much."""

SIDE, COMPILED_SIDE, MEMORY_SIDE = 18.0, 45.0, 14.0
"""About the seconds of one process of one side, with its code in the caches: an estimate, until one has run."""


@dataclass(frozen=True)
class Task:
    """What one part compares: the two sides of the ratio come first."""

    kind: str
    name: str  # of the ratio
    configurations: tuple[Configuration, ...]
    memory: bool = False


TASKS = {
    "headline": Task(THROUGHPUT, OF_T, HEADLINE, memory=True),
    "training": Task(TRAINING, OF_STEP, TRAINING_SIDES),
    "plain": Task(THROUGHPUT, OF_PLAIN, PLAIN),
    "compiled": Task(THROUGHPUT, OF_T, COMPILED),
    "compiled_training": Task(TRAINING, OF_STEP, COMPILED_TRAINING),
}


@dataclass
class Comparison:
    """One part's comparison, and what is known of each configuration."""

    part: Sink
    task: Task
    rates: dict[Configuration, float] = field(default_factory=dict)  # images a second
    took: dict[Configuration, float] = field(default_factory=dict)  # seconds of a process
    lost: set[Configuration] = field(default_factory=set)

    def run(self) -> None:
        """Measure what there is time for, the most important first."""
        first, second, *others = self.task.configurations
        self._pair(first, second, 2)
        graphs = [c for c in others if not c.compiled]
        for c in graphs:
            self._alone(c)
        if self.task.memory:
            for c in (first, second):
                self._memory(self._best(c))
        for c in others:
            if c.compiled:
                self._alone(c)
        best = self._best(first), self._best(second)
        if best != (first, second):
            self._pair(*best, rounds=2)

    def _plan(self, rounds: int, *sides: Configuration) -> Plan:
        tiny = self.part.tiny
        return Plan(
            rounds=rounds,
            turns=2,
            most_turns=4,  # a pair that does not settle: 6 s more, which a part has
            block=simulation.real(0.1 if tiny else 1.5),
            warmup=simulation.real(0.3 if tiny else 3.0),
            canary_limit=GPU_CANARY,
            timeout=simulation.real(150.0 if any(c.compiled for c in sides) else 60.0),
            beside=True,
        )

    def _seconds(self, *sides: Configuration) -> float:
        """About how long a round of these sides takes."""
        if self.part.tiny:
            return 5.0
        return sum(self.took.get(c, COMPILED_SIDE if c.compiled else SIDE) for c in sides)

    def _pair(self, a: Configuration, b: Configuration, rounds: int) -> None:
        """The ratio of two sides, in `rounds` rounds at most; records are handed over after each."""
        key, outcome = f"{a.name} and {b.name}", None
        for r in range(rounds):
            first = (a, b) == self.task.configurations[:2] and not r  # it is begun whatever time there is
            if not first and not self.part.room(self._seconds(a, b), f"round {r + 1} of {key}"):
                return
            began = time.time()
            outcome = self._round(outcome, a, b)
            seconds = simulation.run_seconds(time.time() - began)
            for i, c in enumerate((a, b)):
                self._learn(outcome, i, c, seconds / 2)
            self.part.keep(self._records(outcome, (a, b), paired=True), key)
            if self.lost & {a, b}:  # a further round would wait for it again
                return

    def _alone(self, c: Configuration) -> None:
        """One round of one side, if there is time afterwards for a round of the best."""
        if c.depthwise == "winners" and not (self.part.folder / WINNERS).exists():
            self.part.drop(f"{c.name} (the winners were not measured before: --winners)")
            return
        if c.compiled and not self._may_be_cached(c):
            self.part.drop(f"{c.name} (its code was not compiled in time: it would be compiled while others wait)")
            return
        if not self.part.room(self._seconds(c, *self.task.configurations[:2]), c.name):
            return
        began = time.time()
        outcome = self._round(None, c)
        self._learn(outcome, 0, c, simulation.run_seconds(time.time() - began))
        self.part.keep(self._records(outcome, (c,), paired=False), c.name)

    def _may_be_cached(self, c: Configuration) -> bool:
        """Whether its code may be in the caches: unless this run has tried to compile it, and did not end."""
        file = self.part.folder / WARMED
        return not file.exists() or c.name in json.loads(file.read_text(encoding="utf-8"))

    def _round(self, outcome: Outcome | None, *sides: Configuration) -> Outcome:
        """One more round of these sides; each block is handed over as it comes."""

        def seen(i: int, r: int, block: dict[str, Any]) -> None:
            values = {"side": sides[i].name, "round": r + 1, **{k: block[k] for k in ("seconds", "calls", "host")}}
            self.part.tell(block=values)

        asked = requests(sides, self.part, self.task.kind)
        *_, known = measure(asked, self._plan(1, *sides), _say, outcome, seen)
        return known

    def _learn(self, outcome: Outcome, i: int, c: Configuration, seconds: float) -> None:
        if outcome.samples(i):
            self.rates[c] = median(r.images_per_second for r in outcome.of(i))
            self.took[c] = seconds
        else:
            self.lost.add(c)

    def _records(self, outcome: Outcome, sides: Sequence[Configuration], paired: bool) -> list[Record]:
        """The figures of each side, and the ratio of the first to the second."""
        speed = of_kind(self.task.kind)[0]
        metrics = [m for m in of_kind(self.task.kind) if m != "energy"]  # blocks are too short for its counter
        notes = {(c.model, c.form): c.note for c in sides}  # a pair is of two models, or of two forms of one
        rows = []
        for r in records_of(outcome, [*metrics, f"{speed}_ratio"], [1, None] if paired else [None]):
            if r.value is None and r.metric != speed:
                continue
            of = (f"{self.task.name}: {sides[0].name} against {sides[1].name}",) if r.against else ()
            rows.append(replace(r, notes=(*of, *r.notes, notes[r.model, r.form])))
        return rows

    def _best(self, like: Configuration) -> Configuration:
        """The fastest known configuration of a model in a form; this one where none is known."""
        own = [c for c in self.rates if (c.model, c.form, c.backend == "reference") ==
               (like.model, like.form, like.backend == "reference")]  # fmt: skip
        return max(own, key=lambda c: self.rates[c], default=like)

    def _memory(self, c: Configuration) -> None:
        """Peak memory of inference, in a fresh process."""
        if not self.part.room(5.0 if self.part.tiny else MEMORY_SIDE, f"memory of {c.name}"):
            return
        (side,) = requests([c], self.part, MEMORY)
        ((_, records),) = measured([replace(side, settings=replace(side.settings, compile="none"))])
        self.part.keep([replace(r, notes=(*r.notes, c.note)) for r in records], f"memory of {c.name}")


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    p = arguments("bench.gpu.headline")
    p.add_argument("--of", choices=list(TASKS), required=True)
    args = p.parse_args(argv)
    task = TASKS[args.of]
    if args.tiny:
        task = replace(task, configurations=TINY_TRAINING if task.kind == TRAINING else TINY)
    Comparison(sink(args), task).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
