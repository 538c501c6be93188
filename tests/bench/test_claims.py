"""Verdicts rest on records, and on nothing else."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench import claims
from bench.cli import BadInput
from bench.evidence.commands import command
from bench.evidence.evidence import Evidence, Placed, load
from bench.evidence.figures import figure_statements
from bench.evidence.judge import Finding, Verdict, judge
from bench.evidence.measure import KINDS, wanted
from bench.evidence.show import text_of
from bench.evidence.statement import Statement
from bench.evidence.statements import STATEMENTS
from bench.models import MODELS
from bench.paths import data_file
from bench.published import OURS, Printed, Subject, distinct
from bench.records.record import Record
from tests.bench.reporting.made_records import COST, MACHINES, cost, kept, record, timed

ALL = (*STATEMENTS, *figure_statements())
BY_ID = {statement.id: statement for statement in ALL}
PARAMS = Statement(
    id="x", text="X has 33 M", group="", subjects=(Subject(model="x", metric="params"),), unit="M",
    printed=(Printed("33.0", "M", "a paper"),),
)  # fmt: skip


def evidence(*records: Record) -> Evidence:
    return Evidence(Placed(r, f"results/m/records.csv:{i}") for i, r in enumerate(records, 2))


def verdict(statement: Statement, *records: Record) -> Finding:
    (finding,) = judge(statement, evidence(*records))
    return finding


def test_ids_are_unique() -> None:
    assert len(BY_ID) == len(ALL)


@pytest.mark.parametrize("statement", ALL, ids=lambda s: s.id)
def test_nothing_is_reproduced_by_quoting(statement: Statement) -> None:
    finding = verdict(statement)
    assert finding.verdict in (Verdict.NOT_MEASURED, Verdict.NOT_MEASURABLE, Verdict.CONTRADICTORY)
    assert finding.measured is None
    assert finding.detail, "it says what it needs, or why it cannot be measured"


@pytest.mark.parametrize("statement", ALL, ids=lambda s: s.id)
def test_a_statement_names_its_command_or_what_is_lacking(statement: Statement) -> None:
    assert command(statement).startswith("python -m bench.") or statement.not_measurable or statement.needs


def test_every_published_cost_and_accuracy_figure_is_a_statement() -> None:
    """Each row of published.csv about the four families, but retrainings by others, is printed by a statement."""
    stated = {(p.text, p.source, p.protocol) for s in figure_statements() for p in s.printed}
    with data_file("published.csv").open(newline="", encoding="utf-8") as file:
        rows = [r for r in csv.DictReader(file) if r["metric"] in OURS and r["unit"] != "count"]
    rows = [r for r in rows if r["task"] in ("classification", "detection", "segmentation")]
    rows = [r for r in rows if r["task"] != "classification" or r["dataset"].startswith("ImageNet-1K")]
    absent = [r for r in rows if (r["value"], r["source"], r["protocol"]) not in stated]
    assert len(rows) > 400
    assert {r["confidence"] for r in absent} <= {"third party"}


def test_every_model_of_the_suite_has_statements_of_parameters_and_macs() -> None:
    spoken = {(s.model, s.metric) for statement in figure_statements() for s in statement.subjects if not s.head}
    assert {(name, metric) for name in MODELS for metric in ("params", "macs")} <= spoken | {("moganet_l", "macs")}


PRINTED = [
    # measured, as printed, verdict
    (33_040_000, "33.0", Verdict.REPRODUCED),
    (33_050_000, "33.0", Verdict.REPRODUCED),  # half a unit
    (33_090_000, "33.0", Verdict.WITHIN_ROUNDING),  # cut off instead of rounded
    (33_110_000, "33.0", Verdict.REFUTED),
    (33_490_000, "33", Verdict.REPRODUCED),
    (33_510_000, "33", Verdict.WITHIN_ROUNDING),
    (31_990_000, "33", Verdict.REFUTED),
]


@pytest.mark.parametrize(("measured", "text", "expected"), PRINTED)
def test_printed_figures(measured: float, text: str, expected: Verdict) -> None:
    statement = replace(PARAMS, printed=(Printed(text, "M", "a paper"),))
    finding = verdict(statement, record("x", "params", measured))
    assert finding.verdict == expected
    assert finding.measured == measured
    assert finding.difference == pytest.approx(measured - float(text) * 1e6)


def test_the_released_moganets_refute_their_printed_parameters() -> None:
    for model, params in (("moganet_xt", 2_956_066), ("moganet_b", 43_720_475), ("moganet_xl", 180_991_924)):
        statement = BY_ID[f"figure-{model.replace('_', '-')}-params-224"]
        assert verdict(statement, record(model, "params", params)).verdict == Verdict.REFUTED


def test_multiply_adds_may_differ_by_what_counters_leave_out() -> None:
    statement = BY_ID["figure-convnext-b-macs-224"]
    assert verdict(statement, record("convnext_b", "macs", 15.27e9)).verdict == Verdict.REPRODUCED  # -0.8 %
    assert verdict(statement, record("convnext_b", "macs", 15.20e9)).verdict == Verdict.REFUTED  # -1.3 %


def test_another_convention_is_named_and_never_taken_for_ours() -> None:
    statement = BY_ID["figure-overlock-t-macs-224"]
    ours = record("overlock_t", "macs", 5.64e9, counter="defined")
    other = record("overlock_t", "macs", 5.52e9, counter="keys first", time="2026-02-01T00:00:00+00:00")
    assert verdict(statement, ours).verdict == Verdict.REFUTED
    finding = verdict(statement, ours, other)
    assert finding.verdict == Verdict.REPRODUCED
    assert "only by the convention 'keys first'" in finding.detail
    assert "5.64" in finding.detail
    assert [f.record for f in finding.evidence] == [other, ours]
    wrong = replace(other, value=5.3e9)
    assert verdict(statement, ours, wrong).measured == 5.64e9


def test_contradicting_sources_are_shown_with_what_was_measured() -> None:
    statement = BY_ID["figure-convnext-b-macs-384"]
    finding = verdict(statement, record("convnext_b", "macs", 45.1e9, resolution="384"))
    assert finding.verdict == Verdict.CONTRADICTORY
    assert "45.0 G: reproduced" in finding.detail
    assert "47.0 G: refuted" in finding.detail
    assert len(distinct(statement.printed)) == 2


def test_the_cascade_claim_cannot_be_measured_by_anybody() -> None:
    finding = verdict(BY_ID["s-ap-over-moganet-b"])
    assert finding.verdict == Verdict.NOT_MEASURABLE
    assert "released" in finding.detail
    assert command(finding.statement) == ""


def test_one_third() -> None:
    statement = BY_ID["one-third-params"]
    assert verdict(statement, *cost()).verdict == Verdict.REPRODUCED
    doubled = [replace(r, value=2 * r.value) if r.model == "overlock_t" and r.value else r for r in cost()]
    assert verdict(statement, *doubled).verdict == Verdict.REFUTED


def test_a_statement_about_models_that_were_not_measured_names_them() -> None:
    finding = verdict(BY_ID["one-third-params"], *[r for r in cost() if r.model != "convnext_b"])
    assert finding.verdict == Verdict.NOT_MEASURED
    assert "convnext_b params" in finding.detail
    assert "overlock_t" not in finding.detail


INVALID = [{"valid": False, "reasons": ("canary",)}, {"value": None}, {"form": "train"}, {"task": "detection"}]


@pytest.mark.parametrize("changes", INVALID)
def test_records_that_tell_of_something_else_are_no_evidence(changes: dict[str, object]) -> None:
    good = record("x", "params", 33_000_000)
    assert verdict(PARAMS, good).verdict == Verdict.REPRODUCED
    assert verdict(PARAMS, replace(good, **changes)).verdict == Verdict.NOT_MEASURED  # type: ignore[arg-type]


def test_accuracy_needs_trained_weights_of_the_statement() -> None:
    statement = BY_ID["figure-overlock-t-top1-224"]
    good = timed("overlock_t", "top1", 84.21, weights="ab" * 32)
    assert verdict(statement, good).verdict == Verdict.REPRODUCED
    assert verdict(statement, replace(good, value=84.14)).verdict == Verdict.WITHIN_ROUNDING
    assert verdict(statement, replace(good, value=84.05)).verdict == Verdict.REFUTED
    assert verdict(statement, replace(good, weights="random:0")).verdict == Verdict.NOT_MEASURED
    special = next(s for s in figure_statements() if s.subjects[0].weights.startswith("unireplknet_s_in22k"))
    assert verdict(special, timed("unireplknet_s", "top1", 86.44, weights="ab" * 32, resolution="384")).missing


def speeds(first: float, second: float, **changes: object) -> list[Record]:
    return [
        timed("overlock_t", "throughput", first, **changes),
        timed("convnext_b", "throughput", second, **changes),
        *cost(),
    ]


def test_speed_is_judged_by_its_interval() -> None:
    faster, proportional = BY_ID["faster-overlock_t-convnext_b"], BY_ID["proportional-overlock_t-convnext_b"]
    assert verdict(faster, *speeds(20, 10)).verdict == Verdict.REPRODUCED
    assert verdict(faster, *speeds(10, 20)).verdict == Verdict.REFUTED
    assert verdict(faster, *speeds(10.05, 10)).verdict == Verdict.UNDECIDED
    finding = verdict(proportional, *speeds(20, 10))
    assert finding.verdict == Verdict.REFUTED
    assert finding.measured == pytest.approx(2 * 5.64 / 15.35)
    assert len(finding.evidence) == 4


def test_a_paired_ratio_counts_more_than_two_medians() -> None:
    ratio = timed("overlock_t", "throughput_ratio", 1.5, against="convnext_b deploy", lo=1.4, hi=1.6)
    finding = verdict(BY_ID["faster-overlock_t-convnext_b"], *speeds(10.05, 10), ratio)
    assert (finding.measured, finding.lo, finding.hi) == (1.5, 1.4, 1.6)
    assert finding.verdict == Verdict.REPRODUCED
    of_another_run = replace(ratio, run="run-9")
    assert verdict(BY_ID["faster-overlock_t-convnext_b"], *speeds(10.05, 10), of_another_run).measured == pytest.approx(
        1.005
    )


def test_speeds_of_two_runs_are_never_divided() -> None:
    a, b, *rest = speeds(20, 10)
    finding = verdict(BY_ID["faster-overlock_t-convnext_b"], a, replace(b, run="run-2"), *rest)
    assert finding.verdict == Verdict.NOT_MEASURED
    assert "in one run" in finding.detail


def test_two_machines_give_two_verdicts() -> None:
    other = {"machine": MACHINES[1], "run": "run-2"}
    records = [*speeds(20, 10), *speeds(10, 20, **other)[:2]]
    findings = judge(BY_ID["faster-overlock_t-convnext_b"], evidence(*records))
    assert {f.machine: f.verdict for f in findings} == {
        MACHINES[0]: Verdict.REPRODUCED,
        MACHINES[1]: Verdict.REFUTED,
    }


def test_the_newest_run_counts() -> None:
    later = {"run": "run-2", "time": "2026-03-01T00:00:00+00:00"}
    finding = verdict(BY_ID["faster-overlock_t-convnext_b"], *speeds(20, 10), *speeds(10, 20, **later)[:2])
    assert finding.verdict == Verdict.REFUTED


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0])
def test_what_is_not_finite_is_never_judged(value: float) -> None:
    """Nor is a ratio to 0; a right record that came before still is."""
    params = record(model="x", metric="params", value=value, unit="count")
    if not math.isfinite(value):
        assert verdict(PARAMS, params).verdict == Verdict.NOT_MEASURED
        earlier = replace(params, value=33e6, valid=True, reasons=(), time="2020-01-01T00:00:00+00:00")
        assert verdict(PARAMS, earlier, params).verdict == Verdict.REPRODUCED
    for statement in ("faster-overlock_t-convnext_b", "proportional-overlock_t-convnext_b"):
        of_speed = [replace(r, value=value) if r.model == "convnext_b" else r for r in speeds(20, 10)]
        finding = verdict(BY_ID[statement], *of_speed)
        assert (finding.verdict, finding.measured) == (Verdict.NOT_MEASURED, None)


def test_places_are_lines_of_files(tmp_path: Path) -> None:
    results = kept(tmp_path / "results", cost())
    for found in load(results).all:
        path, _, line = found.place.rpartition(":")
        text = (tmp_path / path).read_text().splitlines()[int(line) - 1]
        assert text.startswith(f"{found.record.model},")
        assert repr(found.record.value) in text


def test_what_can_be_measured_without_weights_covers_all_cost_statements() -> None:
    counted = {subject for kind in KINDS for subject in wanted(ALL, kind)}
    of_cost = {
        s for x in ALL for s in x.subjects if (s.cost or s.metric == "deploy_difference") and s.head != "retinanet"
    }
    assert counted == of_cost


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "bench.claims", *args], capture_output=True, text=True)


def test_no_records(tmp_path: Path) -> None:
    done = run("--results", str(tmp_path))
    assert done.returncode == 2
    assert "NOT MEASURED" in done.stdout
    assert done.stderr.count("\n") == 1
    assert "--measure" in done.stderr


def test_exit_codes_and_formats(tmp_path: Path) -> None:
    results = kept(tmp_path / "results", cost())
    assert claims.main(["--results", str(results), "--only", "one-third"]) == 0
    wrong = [record("moganet_xt", "params", 2_956_066)]
    refuting = kept(tmp_path / "more", wrong)
    assert claims.main(["--results", str(refuting), "--models", "moganet_xt"]) == 1
    unsure = kept(tmp_path / "unsure", speeds(10.05, 10))
    assert claims.main(["--results", str(unsure), "--only", "faster-overlock_t-convnext_b"]) == 3
    output = tmp_path / "claims.json"
    claims.main(["--results", str(results), "--output", str(output)])
    rows = {row["id"]: row for row in json.loads(output.read_text())}
    assert rows.keys() == BY_ID.keys()
    row = rows["one-third-params"]
    assert row["verdict"] == "REPRODUCED"
    assert row["measured"] == pytest.approx(COST["overlock_t"][0] / COST["convnext_b"][0])
    assert "results/machine-a/records.csv:" in row["evidence"]


@pytest.mark.parametrize("style", ["table", "markdown", "latex", "csv", "json"])
def test_every_format_shows_every_verdict(style: str) -> None:
    findings = [f for s in ALL for f in judge(s, evidence(*cost()))]
    text = text_of(findings, style, everything=True)
    for name in ("REPRODUCED", "REFUTED", "CONTRADICTORY SOURCES", "NOT MEASURED", "NOT MEASURABLE"):
        assert name in text
    if style in ("csv", "json", "markdown", "latex"):
        assert len(text.splitlines()) >= len(findings)


BAD = [
    (["--only", "no such words"], "no statement speaks of that"),
    (["--models", "resnet50"], "no statement speaks of that"),
    (["--records", "nothing.csv"], "nothing.csv"),
    (["--measure", "speed"], "--measure"),
    (["--measure", "--records", "x.csv"], "--records"),
]


@pytest.mark.parametrize(("args", "said"), BAD)
def test_bad_input(args: list[str], said: str) -> None:
    with pytest.raises((BadInput, SystemExit)) as caught:
        claims.main(args)
    if isinstance(caught.value, SystemExit):
        assert caught.value.code == 2
    else:
        assert said in str(caught.value)


def test_accepted_intervals_are_intervals() -> None:
    for statement in STATEMENTS:
        if statement.accepted is not None:
            low, high = statement.accepted
            assert low < high
            assert not math.isnan(low + high) or math.inf in (low, high)
