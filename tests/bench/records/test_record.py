"""Records survive writing and reading, also by an older or newer reader."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from typing import Any

import pytest

from bench.paths import REPOSITORY
from bench.records import store
from bench.records.record import VERSION, Record, from_dict, from_json, new_run, stamped, to_json

RECORD = Record(
    model="overlock_t",
    form="deploy",
    metric="throughput",
    value=11.8,
    lo=11.7,
    hi=11.9,
    n=9,
    unit="images/s",
    resolution="224",
    batch=4,
    reasons=("one", "two"),
    valid=False,
    samples=(11.7, 11.8, 11.9),
    run="20260101T000000-abcdef",
    against="convnext_t deploy",
)


def test_json_round_trip() -> None:
    environment = {"cpu": "some", "allocator": {"name": "glibc"}}
    text = to_json(environment, [RECORD, RECORD.failed("OOM: no")])
    assert json.loads(text).keys() == {"environment", "records"}
    assert from_json(text) == (environment, [RECORD, RECORD.failed("OOM: no")])


def test_no_records_is_still_json() -> None:
    assert from_json(to_json({}, [])) == ({}, [])


def test_unknown_fields_are_left_out_and_absent_ones_have_defaults() -> None:
    values = {"model": "m", "form": "deploy", "metric": "macs", "value": 3, "unit": "MACs", "resolution": "224"}
    assert from_dict({**values, "of_a_later_version": 1}) == Record(**values)


@pytest.mark.parametrize("text", ["[]", "{}", '{"records": [{"model": "m"}]}'])
def test_what_is_no_file_of_records_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="record"):
        from_json(text)


def test_out_of_memory_is_a_result_and_a_failure_is_none() -> None:
    assert RECORD.failed("OOM: 4 GiB").measured
    assert not RECORD.failed("RuntimeError: no").measured
    assert RECORD.failed("OOM: 4 GiB").value is None


def test_a_file_of_version_1_still_reads() -> None:
    text = """{"environment": {"cpu": "c"}, "records": [{"model": "m", "form": "deploy", "metric": "macs", "value": 3,
    "unit": "MACs", "resolution": "224", "reasons": [], "notes": ["n"], "version": 1}]}"""
    (record,) = from_json(text)[1]
    assert (record.version, record.notes, record.samples, record.run, record.counter) == (3, ("n",), (), "", "")
    assert VERSION == 3


DETECTION = {"model": "m", "form": "deploy", "metric": "macs", "value": 3, "unit": "MACs", "resolution": "800x1280",
             "task": "detection"}  # fmt: skip
FIXED_PATH = "fixed path (1000 boxes and 100 masks a stage)"


@pytest.mark.parametrize(
    ("method", "head", "variant", "how"),
    [
        (f"cascade on a {FIXED_PATH}; torch FlopCounterMode", "cascade", FIXED_PATH, "torch FlopCounterMode"),
        ("upernet; peak; lo and hi: range", "upernet", "", "peak; lo and hi: range"),
        ("upernet, multi-scale and flip", "upernet", "multi-scale and flip", ""),
        ("upernet, single scale", "upernet", "", ""),
        ("maskrcnn", "maskrcnn", "", ""),
        ("", "", "", ""),  # of a model that could not be measured
    ],
)
def test_the_head_in_the_method_of_version_2_is_a_field(method: str, head: str, variant: str, how: str) -> None:
    now = Record(**{**DETECTION, "head": head, "variant": variant, "method": how})
    assert from_dict({**DETECTION, "method": method, "version": 2}) == now
    assert from_dict(now.to_dict()) == now
    classifier = {**DETECTION, "task": "classification", "version": 2, "method": method}
    assert from_dict(classifier) == Record(**{**classifier, "version": 3})


def test_the_method_of_version_3_is_left_alone() -> None:
    record = Record(**{**DETECTION, "head": "maskrcnn", "method": "cascade; not a head"})
    assert from_dict(record.to_dict()) == record


def test_a_stamp_fills_in_what_the_record_does_not_say() -> None:
    environment = {
        "machine": "here", "python": "3.12", "driver": "", "commit": "c", "dirty": True, "time": "t", "cpu": "not kept",
        "libraries": {"torch": "2.8", "timm": "1.0", "numpy": "2"},
    }  # fmt: skip
    record = stamped(RECORD, environment, "another run")
    assert (record.machine, record.python, record.driver) == ("here", "3.12", "")
    assert (record.commit, record.dirty) == ("c", True)
    assert (record.torch, record.timm, record.time) == ("2.8", "1.0", "t")
    assert record.run == RECORD.run
    assert stamped(replace(RECORD, run="", time="2026-01-01", dirty=False), environment, "r").run == "r"
    assert stamped(replace(RECORD, time="2026-01-01", dirty=False), environment, "r").time == "2026-01-01"
    assert stamped(replace(RECORD, dirty=False), environment, "r").dirty is False
    assert stamped(RECORD, {}, "r") == RECORD


def test_runs_sort_by_time_and_differ() -> None:
    assert new_run()[:8].isdigit()
    assert new_run() != new_run()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_no_figure(bad: float) -> None:
    """On its way in and out: nothing may judge it, show it, or find it equal to another."""
    record = replace(RECORD, value=bad)
    assert (record.value, record.valid, record.n) == (None, False, None)
    assert f"not finite: {bad}" in record.reasons[-1]
    assert replace(RECORD, samples=(1.0, bad)).value is None
    assert from_dict({**RECORD.to_dict(), "value": bad}).value is None


def test_an_open_bound_is_a_bound_and_nan_is_none() -> None:
    assert replace(RECORD, lo=0.0, hi=math.inf).hi == math.inf
    assert replace(RECORD, lo=math.nan, hi=1.0).value is None


IMPOSSIBLE = {
    "lo": math.inf, "hi": -math.inf, "n": -1, "batch": -1, "threads": 0, "version": 0, "noise": -0.1,
    "moved": (0.0, -1.0), "value": -1.0, "samples": (1.0, -2.0),
}  # fmt: skip


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_no_measurement_gives_is_refused_when_made_and_when_read(name: str) -> None:
    whole = replace(RECORD, noise=0.1, moved=(0.0, 0.1))
    with pytest.raises(ValueError, match="not a record"):
        replace(whole, **{name: IMPOSSIBLE[name]})
    with pytest.raises(ValueError, match="not a record"):
        from_dict({**whole.to_dict(), name: IMPOSSIBLE[name]})


@pytest.mark.parametrize(("lo", "hi"), [(math.inf, math.inf), (3.0, 2.0), (-math.inf, -math.inf)])
def test_an_interval_that_is_none_is_refused(lo: float, hi: float) -> None:
    with pytest.raises(ValueError, match="not a record: lo and hi are"):
        replace(RECORD, lo=lo, hi=hi)


WRONG_TYPES = {"str": 3, "float | None": "3", "int | None": 2.5, "int": None, "bool | None": "yes", "bool": 1,
               "tuple[str, ...]": ("a", 3), "tuple[float, ...]": ("1",)}  # fmt: skip


@pytest.mark.parametrize("field", fields(Record), ids=lambda field: field.name)
def test_every_field_is_checked(field: Any) -> None:
    wrong = WRONG_TYPES[str(field.type)]
    with pytest.raises(ValueError, match=f"not a record: {field.name} is"):
        replace(RECORD, **{field.name: wrong})
    with pytest.raises(ValueError, match=f"not a record: {field.name} is"):
        from_dict({**RECORD.to_dict(), field.name: wrong})


@pytest.mark.parametrize(
    ("name", "value"),
    [("model", ""), ("metric", ""), ("form", "deplyo"), ("resolution", "0x"), ("machine", "../up"), ("time", "zzz"),
     ("time", "2026-01-01T00:00:00+00:00 or so")],
)  # fmt: skip
def test_what_a_file_sorts_and_names_by_is_checked(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"not a record: {name} is"):
        from_dict({**RECORD.to_dict(), name: value})


def test_every_committed_record_is_read() -> None:
    for file in REPOSITORY.glob("results/*/records.csv"):
        assert len(store.read(file)) == len(file.read_text().splitlines()) - 1
