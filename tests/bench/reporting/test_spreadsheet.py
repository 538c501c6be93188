"""The wide table for programs: whole units, ratios to the baseline, and column names that stay."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from typing import Any

from bench.records.record import Record
from bench.render import as_csv
from bench.reporting.rows import as_measured
from bench.reporting.spreadsheet import wide
from tests.bench.reporting.test_tables import RECORDS, record


def table(*records: Record, baseline: str = "convnext_b") -> list[dict[str, Any]]:
    return wide(as_measured(records), baseline)


def test_csv_has_whole_units() -> None:
    first, second = csv.DictReader(io.StringIO(as_csv(table(*RECORDS))))
    assert [float(first[name]) for name in ("params", "params_published", "macs_published")] == [
        33_467_040,
        33e6,
        5.5e9,
    ]
    assert [first[f"throughput_ratio{end}"] for end in ("", "_lo", "_hi")] == ["1.49", "1.45", "1.53"]
    assert second["memory_status"] == "OOM"
    assert second["valid"] == "False"
    assert (second["top1_published_all"], second["memory"]) == ("83.838", "")


def test_the_names_of_columns_are_an_interface() -> None:
    assert list(table(*RECORDS)[0]) == [
        *("model", "form", "resolution", "dtype", "batch", "layout", "compile", "threads", "backend", "device"),
        *("params", "params_status", "params_published", "params_published_all", "params_ratio"),
        *("macs", "macs_status", "macs_published", "macs_published_all", "macs_ratio"),
        *("throughput", "throughput_status", "throughput_lo", "throughput_hi"),
        *("throughput_ratio", "throughput_ratio_lo", "throughput_ratio_hi"),
        *("memory", "memory_status", "memory_ratio"),
        *("top1_published", "top1_published_all", "valid", "reasons"),
    ]


def test_a_ratio_is_to_the_same_conditions_and_to_the_only_form() -> None:
    records = [
        record("overlock_t", "memory", 3.0, form="train"),
        record("overlock_t", "memory", 6.0),
        record("overlock_t", "memory", 9.0, batch=8),
        record("overlock_t", "memory", 2.0, resolution="384"),
        record("convnext_b", "memory", 4.0),
        record("convnext_b", "memory", 3.0, batch=8),
        record("convnext_b", "memory", 1.0, resolution="384"),
    ]
    assert [row["memory_ratio"] for row in table(*records)] == [0.75, 1.5, 3.0, 2.0, 1.0, 1.0, 1.0]
    assert all(row["memory_ratio"] for row in table(*records, baseline="overlock_t"))


def test_of_what_was_timed_only_a_paired_ratio_is_shown() -> None:
    """A quotient of medians has no interval, and its sides may have been measured minutes apart."""
    ours, base = table(record("overlock_t", "throughput", 6.0), record("convnext_b", "throughput", 4.0))
    assert ours["throughput_ratio"] is None
    assert base["throughput_ratio"] == 1.0


def test_an_invalid_figure_makes_no_ratio() -> None:
    bad = replace(record("convnext_b", "memory", 8.0), valid=False, reasons=("outputs are not finite",))
    first, second = table(bad, record("resnet18", "memory", 4.0))
    assert (first["memory_ratio"], second["memory_ratio"]) == (None, None)
    assert (first["memory_status"], first["reasons"]) == ("invalid", "memory: outputs are not finite")
