"""A progress bar on stderr, on a terminal only: with the time that is left, where the number of steps is known."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SECONDS_BETWEEN = 3.0


class Progress:
    """Steps done, of a total where there is one, and in words what is under way."""

    def __init__(self) -> None:
        from tqdm import tqdm

        self._said = -SECONDS_BETWEEN
        self._bar: Any = tqdm(
            file=sys.stderr,
            disable=not sys.stderr.isatty(),
            leave=False,
            dynamic_ncols=True,
            bar_format="{elapsed} gone: {desc}",
        )

    def total(self, steps: int) -> None:
        self._bar.bar_format = "{percentage:3.0f}% |{bar:20}| {elapsed} gone, {remaining} left: {desc}"
        self._bar.reset(total=steps)

    def begun(self, what: str) -> None:
        self._bar.set_description_str(what)

    def done(self) -> None:
        self._bar.update(1)

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


@contextmanager
def progress() -> Iterator[Progress]:
    """A bar that is gone when it ends, however it ends."""
    bar = Progress()
    try:
        yield bar
    finally:
        bar.close()
