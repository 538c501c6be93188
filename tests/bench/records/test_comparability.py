"""What may be compared, and the reason for each pair that may not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.records.comparability import covers, differences, pair, refusal
from bench.records.record import Record, from_dict

SPEED = Record(
    model="overlock_t",
    form="deploy",
    metric="throughput",
    value=10.0,
    unit="images/s",
    resolution="224",
    batch=4,
    dtype="float32",
    layout="channels_last",
    compile="none",
    backend="tiled",
    threads=2,
    device="cpu",
    machine="here",
    commit="a",
    torch="2.8.0",
)
COST = Record(model="m", form="deploy", metric="macs", value=5, unit="MACs", resolution="224", counter="c", machine="x")
TOP1 = replace(SPEED, metric="top1", unit="%", dataset="manifest")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("machine", "there"),
        ("device", "cuda"),
        ("dtype", "bfloat16"),
        ("layout", "channels_first"),
        ("batch", 8),
        ("form", "train"),
        ("backend", "reference"),
        ("compile", "default"),
        ("threads", 1),
        ("resolution", "384"),
        ("against", "convnext_t deploy"),
        ("unit", "images/ms"),
    ],
)
def test_measured_figures_under_other_conditions_are_refused_with_both_values(field: str, value: object) -> None:
    reason = refusal(replace(SPEED, **{field: value}), SPEED)
    assert reason == f"{field} {value} against {getattr(SPEED, field) or 'none'}"


@pytest.mark.parametrize("field", ["commit", "torch", "weights", "time", "run"])
def test_the_code_and_its_libraries_may_differ(field: str) -> None:
    assert refusal(replace(SPEED, **{field: "other"}), SPEED) == ""


def test_differences_are_listed() -> None:
    assert differences(replace(SPEED, torch="2.15.0"), SPEED) == ("torch 2.8.0 -> 2.15.0",)
    assert differences(SPEED, SPEED) == ()


def test_cost_is_compared_across_machines_but_not_across_counters() -> None:
    assert refusal(replace(COST, machine="y"), COST) == ""
    assert refusal(replace(COST, counter="d"), COST) == "counter d against c"
    version_1 = from_dict({**COST.to_dict(), "counter": "", "method": "c", "version": 1})
    assert refusal(COST, version_1) == ""


def test_accuracy_is_compared_across_machines_but_not_across_data() -> None:
    assert refusal(replace(TOP1, machine="there", batch=8), TOP1) == ""
    assert refusal(replace(TOP1, dataset="other"), TOP1) == "dataset other against manifest"


def test_peaks_of_memory_seen_in_two_ways_are_refused() -> None:
    a = replace(SPEED, metric="memory", method="high-water mark")
    assert "method" in refusal(replace(a, method="sampled"), a)


def test_dense_figures_with_another_head_are_refused() -> None:
    a = replace(TOP1, metric="box AP", task="detection", head="maskrcnn")
    assert refusal(replace(a, machine="there"), a) == ""
    assert refusal(replace(a, head="cascade"), a) == "head cascade against maskrcnn"
    assert refusal(replace(a, variant="of another kind"), a) == "variant of another kind against none"


@pytest.mark.parametrize("field", ["layout", "backend"])
def test_what_a_plan_leaves_open_may_be_anything(field: str) -> None:
    assert covers(SPEED, replace(SPEED, value=None, **{field: "auto"}))
    assert covers(SPEED, replace(SPEED, value=None, **{field: ""}))
    assert not covers(SPEED, replace(SPEED, value=None, **{field: "another"}))


def test_a_plan_is_covered_by_its_own_conditions_and_a_value_alone() -> None:
    planned = replace(SPEED, value=None, layout="auto")
    assert not any(covers(replace(SPEED, **{f: "other"}), planned) for f in ("model", "metric", "dtype", "machine"))
    assert not covers(SPEED.failed("killed"), planned)
    assert covers(replace(SPEED, commit="b"), planned), "the code is the caller's to compare"


def test_an_equal_card_under_another_number_is_the_same_device() -> None:
    assert refusal(replace(SPEED, device="cuda:1"), replace(SPEED, device="cuda")) == ""


def test_what_is_not_valid_is_refused_with_its_reason() -> None:
    assert "OOM: no" in refusal(SPEED, SPEED.failed("OOM: no"))
    assert "canary" in refusal(replace(SPEED, valid=False, reasons=("canary moved",)), SPEED)


def test_pairs_take_the_latest_comparable_record() -> None:
    old, new = (replace(SPEED, value=v, time=t) for v, t in ((1.0, "2026-01-01"), (2.0, "2026-01-02")))
    batch = replace(SPEED, batch=1, time="2026-01-03")
    found = pair([SPEED], [new, old, batch, COST])
    assert found.pairs == ((SPEED, new),)
    assert found.refused == ()


def test_a_row_without_a_partner_says_why() -> None:
    far = replace(SPEED, batch=1, dtype="bfloat16", threads=1)
    near = replace(SPEED, batch=1)
    other = replace(SPEED, model="another")
    found = pair([SPEED, other], [far, near])
    assert found.pairs == ()
    assert found.refused == ((SPEED, "batch 4 against 1"), (other, "nothing of the kind was recorded"))
