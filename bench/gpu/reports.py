"""A plugin of pytest that hands over every test as it ends, and what the tests say when all is over. Imports no torch.

Experimental: it has not reported tests on a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bench import cli
from bench.gpu import simulation
from bench.gpu.sink import Sink

PASSED, FAILED, OUT_OF_MEMORY, SKIPPED = "passed", "failed", "out of memory", "skipped"
SIGNS = ("OutOfMemoryError", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


class Reporter:
    """Tells a part's sink which tests are to run, and how each ended."""

    def __init__(self, part: Sink) -> None:
        self.part = part
        self.planned = False

    def pytest_collection_finish(self, session: Any) -> None:
        if session.items:  # of one process; with several, each has collected the same
            self._plan([item.nodeid for item in session.items])

    def pytest_xdist_node_collection_finished(self, node: Any, ids: Sequence[str]) -> None:
        self._plan(list(ids))

    def _plan(self, tests: list[str]) -> None:
        if not self.planned:
            self.planned = True
            if simulation.running():  # whose clock is too fast for what pytest takes to start
                self.part.tell(began=True)
            self.part.tell(planned=tests)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != PASSED:
            text = report.longreprtext if report.outcome == FAILED else ""
            self.part.tell(test={"id": report.nodeid, "outcome": outcome(report.outcome, text),
                                 "seconds": round(report.duration, 2), "why": text[-600:]})  # fmt: skip


def outcome(said: str, text: str) -> str:
    """How a test ended: one that lacked the device's memory says nothing of the kernel."""
    return OUT_OF_MEMORY if said == FAILED and any(sign in text for sign in SIGNS) else said


class Verdict(NamedTuple):
    """What the tests say of the kernels: the exit code, and why in words."""

    code: int
    words: str


def verdict(parts: Sequence[str], planned: Mapping[str, Sequence[str]], tests: Mapping[str, Sequence[Any]]) -> Verdict:
    """The verdict of the parts that were to test: 0 only where every test ended and passed."""
    if not parts:
        return Verdict(cli.OK, "correctness was not asked for: nothing here says that the kernels are right")
    every = [test for part in parts for test in tests.get(part, ())]
    ids = {part: set(planned.get(part, ())) for part in parts}
    ended = {part: {test["id"] for test in tests.get(part, ())} for part in parts}
    count = {kind: sum(test["outcome"] == kind for test in every) for kind in (PASSED, FAILED, OUT_OF_MEMORY, SKIPPED)}
    missing = sum(len(ids[part] - ended[part]) for part in parts)
    none = [part for part in parts if not ids[part]]
    said = [f"{number} {kind}" for kind, number in count.items() if number]
    said += [f"{missing} not ended"] if missing else []
    said += [f"no test of {part} was found or begun" for part in none]
    words = ", ".join(said)
    if count[FAILED]:
        first = next(test for test in every if test["outcome"] == FAILED)
        why = cli.last_line(first["why"])[:200]
        return Verdict(cli.REGRESSION, f"WRONG: a kernel is wrong ({words}); the first: {first['id']}: {why}")
    if missing or none or count[OUT_OF_MEMORY] or not count[PASSED]:
        return Verdict(cli.REGRESSION, f"NOT KNOWN: no kernel was found wrong, but not every test ended ({words})")
    return Verdict(cli.OK, f"correct ({words})")
