"""Questions, premises, and ratios of paired rounds."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest

from bench.evidence.finding import Verdict
from bench.evidence.judge import judge, judge_all
from bench.evidence.questions import QUESTIONS, fewer_flops
from bench.evidence.show import text_of
from tests.bench.evidence.judged import ALL, BY_ID, PARAMS, evidence, speeds, verdict
from tests.bench.reporting.made_records import MACHINES, record, timed


def test_a_question_is_answered_by_the_interval_of_the_paired_ratio() -> None:
    faster, proportional = BY_ID["faster-overlock_t-convnext_b"], BY_ID["proportional-overlock_t-convnext_b"]
    assert verdict(faster, *speeds(2)).verdict == Verdict.YES
    assert verdict(faster, *speeds(0.5)).verdict == Verdict.NO
    assert verdict(faster, *speeds(1.005)).verdict == Verdict.UNDECIDED
    finding = verdict(proportional, *speeds(2))
    assert finding.verdict == Verdict.NO
    assert finding.measured == pytest.approx(2 * 5.64 / 15.35)
    assert "5.64 G against 15.35 G (0.37 x)" in finding.detail


def test_a_ratio_is_read_in_both_directions() -> None:
    """The run may have taken either side for its baseline."""
    finding = verdict(BY_ID["faster-overlock_t-convnext_b"], *speeds(0.5, 0.1, "convnext_b", "overlock_t"))
    assert finding.verdict == Verdict.YES
    assert (finding.measured, finding.lo, finding.hi) == pytest.approx((2, 1 / 0.55, 1 / 0.45))


def test_unpaired_medians_are_not_judged() -> None:
    """Not even of one run: sides of two groups took no turns with each other."""
    unpaired = [r for r in speeds(2) if r.metric != "throughput_ratio"]
    to_a_third = timed("overlock_t", "throughput_ratio", 2.0, against="convnext_t deploy")
    for records in (unpaired, [*unpaired, to_a_third]):
        finding = verdict(BY_ID["faster-overlock_t-convnext_b"], *records)
        assert finding.verdict == Verdict.NOT_MEASURED
        assert "paired rounds" in finding.detail
        assert finding.measured is None


@pytest.mark.parametrize("index", [0, 1])
def test_a_pair_whose_premise_fails_is_not_judged(index: int) -> None:
    """OverLoCK-T has more MACs than UniRepLKNet-T: "fewer is faster" is not about them, whichever is faster."""
    statement = [*fewer_flops("overlock_t", "unireplknet_t")][index]
    for ratio in (0.8, 1.2):
        records = [*speeds(ratio, second="unireplknet_t"), record("unireplknet_t", "macs", 4.90e9)]
        finding = verdict(statement, *records)
        assert finding.verdict == Verdict.NOT_JUDGED
        assert "the premise fails" in finding.detail
        assert "5.64 G against 4.90 G" in finding.detail
        assert finding.measured is None


def test_what_nobody_stated_is_a_question_and_no_claim() -> None:
    assert len(QUESTIONS) > 10
    for statement in QUESTIONS:
        assert statement.question
        assert statement.text.endswith("?")
        assert not statement.printed
        assert statement.published() == ""
    assert not [
        s for s in ALL for p in s.printed if re.search("implied|not stated by|is ours", f"{p.source} {p.protocol}")
    ]
    findings = judge_all(QUESTIONS, evidence(*speeds(0.5)))
    said = {f.verdict for f in findings}
    assert Verdict.NO in said
    assert not said & {Verdict.REFUTED, Verdict.NOT_REPRODUCED, Verdict.REPRODUCED}
    text = text_of(findings, "table", everything=True)
    assert "published" not in text.replace("Published figures", "")


def test_speeds_of_two_runs_are_never_divided() -> None:
    a, b, _, *rest = speeds(2)
    finding = verdict(BY_ID["faster-overlock_t-convnext_b"], a, replace(b, run="run-2"), *rest)
    assert finding.verdict == Verdict.NOT_MEASURED
    assert "in one run" in finding.detail


def test_two_machines_give_two_answers() -> None:
    other = {"machine": MACHINES[1], "run": "run-2"}
    records = [*speeds(2), *speeds(0.5, **other)[:3]]
    findings = judge(BY_ID["faster-overlock_t-convnext_b"], evidence(*records))
    assert {f.machine: f.verdict for f in findings} == {MACHINES[0]: Verdict.YES, MACHINES[1]: Verdict.NO}


def test_a_compiled_run_does_not_take_the_place_of_another() -> None:
    later = {"run": "run-2", "time": "2026-03-01T00:00:00+00:00", "compile": "inductor"}
    findings = judge(BY_ID["faster-overlock_t-convnext_b"], evidence(*speeds(2), *speeds(0.5, **later)[:3]))
    assert [f.verdict for f in findings] == [Verdict.YES, Verdict.NO]
    assert "compile inductor" in findings[1].detail


def test_the_newest_run_counts() -> None:
    later = {"run": "run-2", "time": "2026-03-01T00:00:00+00:00"}
    finding = verdict(BY_ID["faster-overlock_t-convnext_b"], *speeds(2), *speeds(0.5, **later)[:3])
    assert finding.verdict == Verdict.NO


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0])
def test_what_is_not_finite_is_never_judged(value: float) -> None:
    """Nor is a ratio to 0; a right record that came before still is."""
    params = record(model="x", metric="params", value=value, unit="count")
    if not math.isfinite(value):
        assert verdict(PARAMS, params).verdict == Verdict.NOT_MEASURED
        earlier = replace(params, value=33e6, valid=True, reasons=(), time="2020-01-01T00:00:00+00:00")
        assert verdict(PARAMS, earlier, params).verdict == Verdict.REPRODUCED
    for statement in ("faster-overlock_t-convnext_b", "proportional-overlock_t-convnext_b"):
        of_speed = [replace(r, value=value) if r.metric == "macs" else r for r in speeds(2)]
        of_speed = [r for r in of_speed if statement.startswith("proportional") or r.metric != "throughput_ratio"]
        finding = verdict(BY_ID[statement], *of_speed)
        assert finding.verdict in (Verdict.NOT_MEASURED, Verdict.NOT_JUDGED)
        assert finding.measured is None
