"""Verdicts rest on records, and on nothing else."""

from __future__ import annotations

import csv
import importlib
import json
import math
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench import claims
from bench.cli import BadInput
from bench.evidence.commands import command
from bench.evidence.everything import statements
from bench.evidence.evidence import Evidence, Placed, load
from bench.evidence.figures import figure_statements
from bench.evidence.finding import Finding, Verdict
from bench.evidence.judge import judge, judge_all
from bench.evidence.measure import KINDS, wanted
from bench.evidence.questions import QUESTIONS, fewer_flops
from bench.evidence.show import text_of, would_change
from bench.evidence.statement import Statement
from bench.evidence.statements import STATEMENTS
from bench.models import MODELS
from bench.paths import data_file
from bench.published import OURS, Printed, Subject, distinct
from bench.records.record import Record
from tests.bench.reporting.made_records import COST, MACHINES, cost, kept, record, timed

ALL = statements()
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
    (33_060_000, "33.0", Verdict.NOT_REPRODUCED),  # parameters are exact
    (33_110_000, "33.0", Verdict.NOT_REPRODUCED),
    (33_490_000, "33", Verdict.REPRODUCED),
    (33_510_000, "33", Verdict.NOT_REPRODUCED),
    (31_990_000, "33", Verdict.NOT_REPRODUCED),
]


@pytest.mark.parametrize(("measured", "text", "expected"), PRINTED)
def test_printed_figures(measured: float, text: str, expected: Verdict) -> None:
    statement = replace(PARAMS, printed=(Printed(text, "M", "a paper"),))
    finding = verdict(statement, record("x", "params", measured))
    assert finding.verdict == expected
    assert finding.measured == measured
    assert finding.difference == pytest.approx(measured - float(text) * 1e6)


def test_the_released_moganets_have_other_parameters_than_printed() -> None:
    for model, params in (("moganet_xt", 2_956_066), ("moganet_b", 43_720_475), ("moganet_xl", 180_991_924)):
        statement = BY_ID[f"figure-{model.replace('_', '-')}-params-224"]
        assert verdict(statement, record(model, "params", params)).verdict == Verdict.NOT_REPRODUCED


RULE = [
    ("convnext_b", 15.36e9, Verdict.REPRODUCED, ""),
    ("convnext_b", 15.27e9, Verdict.WITHIN_TOLERANCE, "15.4 printed, 15.27 counted (-0.84 %): no convention of ours"),
    ("convnext_b", 15.19e9, Verdict.NOT_REPRODUCED, "15.4 printed, 15.19 counted (-1.36 %): no convention of ours"),
    ("overlock_xt", 2.69996e9, Verdict.NOT_REPRODUCED, "2.6 printed, 2.70 counted (+3.84 %): no convention of ours"),
    ("overlock_t", 5.64277e9, Verdict.NOT_REPRODUCED, "5.5 printed, 5.64 counted (+2.60 %): no convention of ours"),
    ("overlock_s", 9.88960e9, Verdict.NOT_REPRODUCED, "9.7 printed, 9.89 counted (+1.95 %): no convention of ours"),
    ("overlock_b", 17.0900e9, Verdict.NOT_REPRODUCED, "16.7 printed, 17.09 counted (+2.34 %): no convention of ours"),
]


@pytest.mark.parametrize(("model", "macs", "expected", "said"), RULE)
def test_one_tolerance_for_all_with_the_size_in_words(model: str, macs: float, expected: Verdict, said: str) -> None:
    """The four of OverLoCK, which differ by 2 to 3.8 %, get the same verdict: few printed digits are no excuse."""
    finding = verdict(BY_ID[f"figure-{model.replace('_', '-')}-macs-224"], record(model, "macs", macs))
    assert finding.verdict == expected
    assert finding.detail.startswith(said)


def test_another_convention_is_named_and_never_taken_for_ours() -> None:
    statement = BY_ID["figure-overlock-t-macs-224"]
    ours = record("overlock_t", "macs", 5.64e9, counter="defined")
    other = record("overlock_t", "macs", 5.52e9, counter="keys first", time="2026-02-01T00:00:00+00:00")
    assert verdict(statement, ours).verdict == Verdict.NOT_REPRODUCED
    finding = verdict(statement, ours, other)
    assert finding.verdict == Verdict.REPRODUCED
    assert "by the convention 'keys first', which gives 1 of the 1 figures" in finding.detail
    assert "5.64" in finding.detail
    assert [f.record for f in finding.evidence] == [other, ours]
    wrong = replace(other, value=5.3e9)
    assert verdict(statement, ours, wrong).measured == 5.64e9


MACS = {"overlock_xt": 2.70e9, "overlock_t": 5.64e9, "overlock_s": 9.89e9, "overlock_b": 17.09e9}


@pytest.mark.parametrize(
    ("given", "expected"), [(1, Verdict.NOT_REPRODUCED), (2, Verdict.NOT_REPRODUCED), (3, Verdict.REPRODUCED)]
)
def test_a_convention_has_to_give_most_of_a_table(given: int, expected: Verdict) -> None:
    """Of many conventions and few digits one agrees by chance."""
    printed = {"overlock_xt": 2.6e9, "overlock_t": 5.5e9, "overlock_s": 9.7e9, "overlock_b": 16.7e9}
    records = [record(model, "macs", macs, counter="defined") for model, macs in MACS.items()]
    for i, (model, macs) in enumerate(printed.items()):
        records.append(record(model, "macs", macs if i < given else 0.9 * macs, counter="another"))
    assert verdict(BY_ID["figure-overlock-xt-macs-224"], *records).verdict == expected


UPERNET = {
    "t": (61.76, 60.99),
    "s": (87.30, 86.38),
    "b": (131.52, 130.30),
    "l": (255.68, 253.87),
    "xl": (427.47, 425.07),
}


def test_parameters_have_conventions_too() -> None:
    """UniRepLKNet's published parameters with UperNet are without the auxiliary head, all five of them."""
    records = []
    for size, (whole, without) in UPERNET.items():
        common = {"task": "segmentation", "head": "upernet", "resolution": "512x2048"}
        for count, counter in ((without, "parameters without the auxiliary head"), (whole, "parameters")):
            records.append(record(f"unireplknet_{size}", "params", count * 1e6, counter=counter, **common))
    for size in UPERNET:
        statement = BY_ID[f"figure-unireplknet-{size}-upernet-params"]
        finding = verdict(statement, *records)
        assert finding.verdict == Verdict.REPRODUCED
        assert "without the auxiliary head', which gives 5 of the 5 figures" in finding.detail
        assert verdict(statement, *[r for r in records if r.counter == "parameters"]).verdict == Verdict.NOT_REPRODUCED


def test_contradicting_sources_are_shown_with_what_was_measured() -> None:
    statement = BY_ID["figure-convnext-b-macs-384"]
    finding = verdict(statement, record("convnext_b", "macs", 45.1e9, resolution="384"))
    assert finding.verdict == Verdict.CONTRADICTORY
    assert "45.0 G: within tolerance" in finding.detail
    assert "47.0 G: not reproduced (47.0 printed, 45.10 counted (-4.04 %)" in finding.detail
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
    assert verdict(statement, replace(good, value=84.14)).verdict == Verdict.WITHIN_TOLERANCE
    assert verdict(statement, replace(good, value=84.05)).verdict == Verdict.NOT_REPRODUCED
    assert verdict(statement, replace(good, weights="random:0")).verdict == Verdict.NOT_MEASURED
    special = next(s for s in figure_statements() if s.subjects[0].weights.startswith("unireplknet_s_in22k"))
    assert verdict(special, timed("unireplknet_s", "top1", 86.44, weights="ab" * 32, resolution="384")).missing


def speeds(
    ratio: float, spread: float = 0.01, first: str = "overlock_t", second: str = "convnext_b", **changes: object
) -> list[Record]:
    """Throughputs of two models, and their ratio in paired rounds."""
    return [
        timed(first, "throughput", 10.0 * ratio, **changes),
        timed(second, "throughput", 10.0, **changes),
        timed(first, "throughput_ratio", ratio, spread, against=f"{second} deploy", **changes),
        *cost(),
    ]


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


def test_a_lead_within_what_repeated_evaluations_differ_by_is_undecided() -> None:
    statement = BY_ID["t-over-convnext-b"]
    for first, expected in ((83.95, Verdict.REPRODUCED), (83.85, Verdict.UNDECIDED), (83.7, Verdict.REFUTED)):
        records = [timed("overlock_t", "top1", first, weights="ab" * 32)]
        records.append(timed("convnext_b", "top1", 83.84, weights="cd" * 32))
        assert verdict(statement, *records).verdict == expected


def test_what_would_change_a_verdict_is_said() -> None:
    assert would_change(verdict(BY_ID["one-third-params"], *cost())) == "a value below 0.292 x or above 0.417 x"
    assert would_change(verdict(PARAMS, record("x", "params", 33.2e6))) == "a value above 32.950 M and below 33.050 M"
    assert "release" in would_change(verdict(BY_ID["s-ap-over-moganet-b"]))


def test_figures_of_a_dirty_tree_are_marked() -> None:
    clean, dirty = record("x", "params", 33e6), record("x", "params", 33e6, dirty=True)
    for style in ("table", "markdown", "csv", "json"):
        of_clean = text_of([verdict(PARAMS, clean)], style, everything=True)
        of_dirty = text_of([verdict(PARAMS, dirty)], style, everything=True)
        assert of_clean != of_dirty
        assert ("(dirty)" in of_dirty) == (style in ("table", "markdown") or "(dirty)" in of_dirty)
        assert "(dirty)" not in of_clean
    assert "no commit can repeat" in text_of([verdict(PARAMS, dirty)], "table", everything=True)


def test_what_is_not_measured_is_folded() -> None:
    findings = judge_all(ALL, evidence(*cost()))
    folded, whole = (text_of(findings, "table", everything) for everything in (False, True))
    assert "NOT MEASURED: " not in folded
    assert "NOT MEASURED: " in whole
    assert re.search(r"\d+ NOT MEASURED, \d+ NOT MEASURABLE \(\d+ that are reproduced or not measured", folded)
    assert len(folded.splitlines()) < len(whole.splitlines()) / 2


def test_every_command_is_one_that_its_parser_takes() -> None:
    seen = set()
    for statement in ALL:
        if line := command(statement):
            python, _, module, *args = shlex.split(line)
            assert python == "python"
            importlib.import_module(module).parser().parse_args(args)
            seen.add(module)
    assert {"bench.compare", "bench.claims", "bench.top1", "bench.coco", "bench.ade20k"} == seen


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
    asked = ["--results", str(refuting), "--models", "moganet_xt"]
    assert [claims.main(asked), claims.main([*asked, "--check"])] == [0, 1]
    top1 = [
        timed("overlock_t", "top1", 83.85, weights="ab" * 32),
        timed("convnext_b", "top1", 83.84, weights="cd" * 32),
    ]
    asked = ["--results", str(kept(tmp_path / "unsure", top1)), "--only", "t-over-convnext-b"]
    assert [claims.main(asked), claims.main([*asked, "--check"])] == [0, 3]
    slower = ["--results", str(kept(tmp_path / "slower", speeds(0.5))), "--only", "faster-overlock_t-convnext_b"]
    assert claims.main([*slower, "--check"]) == 0, "a question's answer is nobody's failure"
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
    for name in ("REPRODUCED", "NOT REPRODUCED", "CONTRADICTORY SOURCES", "NOT MEASURED", "NOT MEASURABLE"):
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
