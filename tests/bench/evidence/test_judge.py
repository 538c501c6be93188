"""Verdicts rest on records, and on nothing else."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import pytest

from bench.evidence.commands import command
from bench.evidence.evidence import load
from bench.evidence.figures import figure_statements
from bench.evidence.finding import Verdict
from bench.evidence.measure import KINDS, wanted
from bench.evidence.statement import Statement
from bench.evidence.statements import STATEMENTS
from bench.models import MODELS
from bench.paths import data_file
from bench.published import OURS
from tests.bench.evidence.judged import ALL, BY_ID, PARAMS, verdict
from tests.bench.reporting.made_records import cost, kept, record, timed


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
    assert verdict(statement, replace(good, dataset="imagenet:00")).verdict == Verdict.REPRODUCED
    for other in ("imagenet-a:00", "custom:00"):
        assert verdict(statement, replace(good, dataset=other)).verdict == Verdict.NOT_MEASURED
    special = next(s for s in figure_statements() if s.subjects[0].weights.startswith("unireplknet_s_in22k"))
    assert verdict(special, timed("unireplknet_s", "top1", 86.44, weights="ab" * 32, resolution="384")).missing


def test_a_lead_within_what_repeated_evaluations_differ_by_is_undecided() -> None:
    statement = BY_ID["t-over-convnext-b"]
    for first, expected in ((83.95, Verdict.REPRODUCED), (83.85, Verdict.UNDECIDED), (83.7, Verdict.REFUTED)):
        records = [timed("overlock_t", "top1", first, weights="ab" * 32)]
        records.append(timed("convnext_b", "top1", 83.84, weights="cd" * 32))
        assert verdict(statement, *records).verdict == expected


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


def test_accepted_intervals_are_intervals() -> None:
    for statement in STATEMENTS:
        if statement.accepted is not None:
            low, high = statement.accepted
            assert low < high
            assert not math.isnan(low + high) or math.inf in (low, high)
