"""Findings as text: marks, folds, and what would change a verdict."""

from __future__ import annotations

import re

import pytest

from bench.evidence.finding import Verdict
from bench.evidence.judge import judge, judge_all
from bench.evidence.rule import RULE
from bench.evidence.show import cells, lines, text_of, would_change
from tests.bench.evidence.judged import ALL, BY_ID, PARAMS, evidence, speeds, verdict
from tests.bench.reporting.made_records import cost, record


def test_what_would_change_a_verdict_is_said() -> None:
    assert would_change(verdict(BY_ID["one-third-params"], *cost())) == "a value below 0.2917 x or above 0.4167 x"
    assert would_change(verdict(PARAMS, record("x", "params", 33.2e6))) == "a value above 32.950 M and below 33.050 M"
    assert "release" in would_change(verdict(BY_ID["s-ap-over-moganet-b"]))


XL = BY_ID["figure-moganet-xl-macs-224"]  # 34.5 G, with a tolerance of 1 %


@pytest.mark.parametrize(
    ("value", "expected", "said"),
    [
        (34.52e9, Verdict.REPRODUCED, "a value below 34.45 G or above 34.55 G"),
        (34.39e9, Verdict.WITHIN_TOLERANCE,
         "a value above 34.45 G and below 34.55 G, or one below 34.10 G or above 34.90 G"),
        (33.00e9, Verdict.NOT_REPRODUCED, "a value above 34.10 G and below 34.90 G"),
        (36.00e9, Verdict.NOT_REPRODUCED, "a value above 34.10 G and below 34.90 G"),
    ],
)  # fmt: skip
def test_what_would_change_a_verdict_is_not_what_was_measured(value: float, expected: Verdict, said: str) -> None:
    """And a value a little beyond what is said does change it."""
    finding = verdict(XL, record("moganet_xl", "macs", value))
    assert (finding.verdict, would_change(finding)) == (expected, said)
    assert not _told(said, value / 1e9)
    for end in map(float, re.findall(r"[\d.]+(?= G)", said)):
        for beyond in (end - 0.01, end + 0.01):
            other = verdict(XL, record("moganet_xl", "macs", beyond * 1e9)).verdict
            assert (other != expected) == _told(said, beyond), beyond


def _told(said: str, value: float) -> bool:
    """Whether a value is one of those that are told."""
    ways = re.split(r",? or ", said)
    return any(
        all(value > float(end) if side == "above" else value < float(end)
            for side, end in re.findall(r"(above|below) ([\d.]+)", way))
        for way in ways
    )  # fmt: skip


def test_what_would_change_is_said_of_every_verdict() -> None:
    unknown = verdict(XL)
    assert lines(unknown)[-2] == "what would refute it: a value below 34.10 G or above 34.90 G"
    faster = BY_ID["faster-overlock_t-convnext_b"]
    assert "what would answer no: a value below 1.00 x" in lines(verdict(faster, *cost()))
    undecided = verdict(faster, *speeds(1.01, spread=0.1))
    assert (undecided.verdict, would_change(undecided)) == (Verdict.UNDECIDED, "an interval on one side of 1.00 x")
    assert "what would change the answer: a value below 1.00 x" in lines(verdict(faster, *speeds(1.5)))
    macs = [record("overlock_t", "macs", 9e9), record("convnext_b", "macs", 8e9)]
    fails = verdict(faster, *macs)
    assert (fails.verdict, would_change(fails)) == (
        Verdict.NOT_JUDGED, "counts by which OverLoCK-T has fewer MACs than ConvNeXt-B")  # fmt: skip


def test_a_figure_read_from_a_plot_is_shown_with_how_far_off_it_may_be() -> None:
    """281.91 G is no 281 G to a reader, unless the figure is shown as it could be read."""
    common = {"task": "detection", "head": "maskrcnn", "resolution": "800x1280"}
    statement = BY_ID["figure-overlock-t-maskrcnn-macs-800x1280"]
    finding = verdict(statement, record("overlock_t", "macs", 281.91e9, **common))
    assert finding.verdict == Verdict.REPRODUCED
    assert cells(finding)[1:4] == ["OverLoCK-T with Mask R-CNN: FLOPs 281 ±1 G at 800 x 1280", "281 ±1 G", "281.91 G"]
    other = verdict(statement, record("overlock_t", "macs", 290e9, **common))
    assert other.detail.startswith("281 read from a plot, 290.0 counted")
    assert "±" in RULE


def test_a_share_in_words_is_exact() -> None:
    """0.36749 is 10.248 % more than a third: +10.26 % would be that of 0.3333."""
    macs = [record("overlock_t", "macs", 5_642_758_464), record("convnext_b", "macs", 15_354_729_472)]
    assert "measured 0.3675 x, published around one third, difference +0.0342 x (+10.25%)" in lines(
        verdict(BY_ID["one-third-macs"], *macs))[1]  # fmt: skip


def test_figures_of_a_dirty_tree_are_marked() -> None:
    clean, dirty = record("x", "params", 33e6), record("x", "params", 33e6, dirty=True)
    for style in ("table", "markdown", "csv", "json"):
        of_clean, of_dirty = (text_of([verdict(PARAMS, r)], style, everything=True) for r in (clean, dirty))
        assert of_clean.count("(dirty)") == 0
        assert of_dirty != of_clean
        assert "(dirty)" in of_dirty
    assert "no commit can repeat" in text_of([verdict(PARAMS, dirty)], "table", everything=True)


def test_what_is_not_measured_is_folded() -> None:
    findings = judge_all(ALL, evidence(*cost()))
    folded, whole = (text_of(findings, "table", everything) for everything in (False, True))
    assert "NOT MEASURED: " not in folded
    assert "NOT MEASURED: " in whole
    assert re.search(r"\d+ NOT MEASURED, \d+ NOT MEASURABLE \(\d+ reproduced or not measured", folded)
    assert len(folded.splitlines()) < len(whole.splitlines()) / 2


@pytest.mark.parametrize("style", ["table", "markdown", "csv", "json"])
def test_every_format_shows_every_verdict(style: str) -> None:
    findings = [f for s in ALL for f in judge(s, evidence(*cost()))]
    text = text_of(findings, style, everything=True)
    for name in ("REPRODUCED", "NOT REPRODUCED", "CONTRADICTORY SOURCES", "NOT MEASURED", "NOT MEASURABLE"):
        assert name in text
    if style != "table":
        assert len(text.splitlines()) >= len(findings)
