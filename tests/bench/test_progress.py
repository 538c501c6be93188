"""The time that is left, and what is printed where there is no terminal."""

from __future__ import annotations

import time

import pytest

from bench import progress
from bench.progress import Progress


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock)
    return clock


def test_what_is_left_is_reckoned_by_kind_from_what_was_measured(clock: Clock) -> None:
    bar = Progress()
    bar.total({"count": (2, 1.0), "round": (3, 10.0)})
    assert bar.left() == pytest.approx(32.0)
    clock.now += 0.5
    bar.done("count")
    assert bar.left() == pytest.approx(0.5 + 30.0)
    clock.now += 0.5
    bar.done("count")
    clock.now += 20.0
    bar.done("round")
    assert bar.left() == pytest.approx(40.0)
    clock.now += 15.0
    assert bar.left() == pytest.approx(25.0)
    bar.close()


def test_larger_pieces_of_work_count_for_more(clock: Clock) -> None:
    bar = Progress()
    bar.total({"model": (2, 1.0)}, {"model": 10.0})
    clock.now += 18.0
    bar.done("model", 9.0)
    assert bar.left() == pytest.approx(2.0)
    bar.close()


def test_a_step_that_was_skipped_says_nothing_of_the_others(clock: Clock) -> None:
    bar = Progress()
    bar.total({"round": (3, 10.0)})
    bar.done("round")
    assert bar.left() == pytest.approx(20.0)
    bar.close()


def test_off_terminals_each_step_is_a_line(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    bar = Progress()
    bar.total({"round": (2, 10.0)})
    for words in ("first", "second"):
        bar.begun(words)
        clock.now += 4.0
        bar.done("round")
    bar.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["[1/2] 4 s gone, about 4 s left: first", "[2/2] 8 s gone, all done: second"]


def test_on_a_terminal_the_bar_has_the_share_and_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    bar = Progress()
    bar.total({"round": (2, 1.0)})
    time.sleep(0.05)
    bar.done("round")
    bar.begun("the second")
    bar._bar.refresh()
    shown = capsys.readouterr().err
    assert " 50% |" in shown or " 49% |" in shown
    assert "left: the second" in shown
    bar.close()
