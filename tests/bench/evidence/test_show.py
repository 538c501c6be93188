"""Findings as text: marks, folds, and what would change a verdict."""

from __future__ import annotations

import re

import pytest

from bench.evidence.judge import judge, judge_all
from bench.evidence.show import text_of, would_change
from tests.bench.evidence.judged import ALL, BY_ID, PARAMS, evidence, verdict
from tests.bench.reporting.made_records import cost, record


def test_what_would_change_a_verdict_is_said() -> None:
    assert would_change(verdict(BY_ID["one-third-params"], *cost())) == "a value below 0.2917 x or above 0.4167 x"
    assert would_change(verdict(PARAMS, record("x", "params", 33.2e6))) == "a value above 32.950 M and below 33.050 M"
    assert "release" in would_change(verdict(BY_ID["s-ap-over-moganet-b"]))


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
    assert re.search(r"\d+ NOT MEASURED, \d+ NOT MEASURABLE \(\d+ that are reproduced or not measured", folded)
    assert len(folded.splitlines()) < len(whole.splitlines()) / 2


@pytest.mark.parametrize("style", ["table", "markdown", "csv", "json"])
def test_every_format_shows_every_verdict(style: str) -> None:
    findings = [f for s in ALL for f in judge(s, evidence(*cost()))]
    text = text_of(findings, style, everything=True)
    for name in ("REPRODUCED", "NOT REPRODUCED", "CONTRADICTORY SOURCES", "NOT MEASURED", "NOT MEASURABLE"):
        assert name in text
    if style != "table":
        assert len(text.splitlines()) >= len(findings)
