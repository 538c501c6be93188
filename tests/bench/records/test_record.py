"""Records survive writing and reading, also by an older or newer reader."""

from __future__ import annotations

import json

import pytest

from bench.records.record import VERSION, Record, from_dict, from_json, new_run, to_json

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
    assert (record.version, record.notes, record.samples, record.run, record.counter) == (1, ("n",), (), "", "")
    assert VERSION == 2


def test_runs_sort_by_time_and_differ() -> None:
    assert new_run()[:8].isdigit()
    assert new_run() != new_run()
