"""What is done and what is left, on stderr: a bar on a terminal, a line for each step elsewhere.

The time that is left is that of the steps that are left, each as long as those of its kind took so far in this run.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

SECONDS_BETWEEN = 3.0
LEAST_SECONDS = 0.002
"""A step that ends sooner was skipped, as its figure is known: it says nothing of how long the others take."""


@dataclass
class Kind:
    """Steps of one kind: how much of them is left, in any unit, and about how many seconds a unit takes."""

    left: float
    seconds: float  # a unit, as long as none has been measured
    spent: float = 0.0
    measured: float = 0.0

    def remaining(self) -> float:
        return max(0.0, self.left) * (self.spent / self.measured if self.measured else self.seconds)


class Progress:
    """Steps of several kinds, and in words what is under way."""

    def __init__(self) -> None:
        from tqdm import tqdm

        self._said = -SECONDS_BETWEEN
        self._terminal = sys.stderr.isatty()
        self._start = self._since = time.monotonic()
        self._kinds: dict[str, Kind] = {}
        self._steps = self._done = 0
        self._what = ""
        self._bar: Any = tqdm(
            file=sys.stderr,
            disable=not self._terminal,
            leave=False,
            dynamic_ncols=True,
            bar_format="{elapsed} gone: {desc}",
        )

    def total(self, steps: Mapping[str, tuple[int, float]], amounts: Mapping[str, float] | None = None) -> None:
        """Say what there is to do: of each kind how many steps, and about how many seconds one takes.

        `amounts` has the work of all steps of a kind, where they differ: the seconds are then of a unit of it.
        """
        self._kinds = {kind: Kind((amounts or {}).get(kind, count), each) for kind, (count, each) in steps.items()}
        self._steps = sum(count for count, _ in steps.values())
        self._bar.bar_format = "{percentage:3.0f}% |{bar:20}| {elapsed} gone, {desc}"
        self._bar.total = 100
        self._show()

    def begun(self, what: str) -> None:
        self._what = what
        self._show()

    def done(self, kind: str, amount: float = 1.0) -> None:
        """A step has ended: one of `kind`, of that amount of work."""
        now = time.monotonic()
        seconds, self._since = now - self._since, now
        self._done += 1
        known = self._kinds[kind]
        known.left -= amount
        if seconds >= LEAST_SECONDS:
            known.spent += seconds
            known.measured += amount
        self._show()
        if not self._terminal and (seconds >= LEAST_SECONDS or self._done == self._steps):
            left = f"about {self.left():.0f} s left" if self._done < self._steps else "all done"
            self.say(f"[{self._done}/{self._steps}] {now - self._start:.0f} s gone, {left}: {self._what or kind}")

    def left(self) -> float:
        """About how many seconds are left."""
        expected = sum(kind.remaining() for kind in self._kinds.values())
        return max(0.0, expected - (time.monotonic() - self._since))

    def known(self, line: str) -> None:
        """Say what is known so far, unless something was said just before."""
        now = time.monotonic()
        if now - self._said >= SECONDS_BETWEEN:
            self._said = now
            self.say(line)

    def say(self, line: str) -> None:
        """Print a line that stays; on stderr, also where there is no terminal."""
        self._bar.write(line, file=sys.stderr)

    def close(self) -> None:
        self._bar.close()

    def _show(self) -> None:
        if not self._kinds:
            self._bar.set_description_str(self._what)
            return
        gone, left = time.monotonic() - self._start, self.left()
        self._bar.n = 100 * gone / max(gone + left, 1e-9)
        self._bar.set_description_str(f"{self._bar.format_interval(left)} left: {self._what}")


@contextmanager
def progress() -> Iterator[Progress]:
    """A bar that is gone when it ends, however it ends."""
    bar = Progress()
    try:
        yield bar
    finally:
        bar.close()
