"""Tables from made-up records: the exact text, ratios, and what stands in the place of a missing figure."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import pandas as pd
import pytest

from bench.models import MODELS, entry_for_timm
from bench.records.record import Record
from bench.reporting.wide import below, comment, for_people, render, shared_conditions, wide

ENTRIES = {**MODELS, "resnet18": entry_for_timm("resnet18")}
UNITS = {
    "params": "count",
    "macs": "MACs",
    "throughput": "images/s",
    "memory": "bytes",
    "throughput_ratio": "ratio",
    "latency": "s",
}


def record(model: str, metric: str, value: float | None, form: str = "deploy", **kwargs: object) -> Record:
    conditions = {} if metric in ("params", "macs") else {"batch": 4, "dtype": "float32", "layout": "channels_last"}
    fields = {"resolution": "224", "unit": UNITS[metric], **conditions, **kwargs}
    return Record(model=model, form=form, metric=metric, value=value, **fields)  # type: ignore[arg-type]


RECORDS = [
    record("overlock_t", "params", 33_467_040),
    record("overlock_t", "macs", 5_642_758_464),
    record("overlock_t", "throughput", 12.0, lo=11.7, hi=12.3, backend="tiled"),
    record("overlock_t", "throughput_ratio", 1.49, lo=1.45, hi=1.53, against="convnext_b deploy", backend="tiled"),
    record("overlock_t", "memory", 48 * 2**20, backend="tiled"),
    record("convnext_b", "params", 88_591_464),
    record("convnext_b", "macs", 15_354_729_472),
    record("convnext_b", "throughput", 8.0, lo=7.9, hi=8.1),
    record("convnext_b", "memory", None).failed("OOM: can't allocate"),
]


def test_table_for_people() -> None:
    headings, rows = for_people(wide(RECORDS, ENTRIES, "convnext_b"))
    assert headings == [
        "model",
        "size",
        "params M",
        "params M (pub.)",
        "ratio",
        "MACs G",
        "FLOPs G (pub.)",
        "ratio",
        "images/s",
        "ratio",
        "memory MiB",
        "top-1 % (pub.)",
    ]
    assert rows == [
        [
            "overlock_t",
            "224",
            "33.47",
            "33",
            "0.38",
            "5.64",
            "5.5",
            "0.37",
            "12.0 ±2.5%",
            "1.49 [1.45, 1.53]",
            "48.0",
            "84.2",
        ],
        ["convnext_b", "224", "88.59", "89", "1.00", "15.35", "15.4", "1.00", "8.0 ±1.2%", "1.00", "OOM", "83.8"],
    ]


def test_markdown() -> None:
    frame = wide([r for r in RECORDS if r.metric == "params"], ENTRIES, "convnext_b")
    assert render(frame, "markdown") == (
        "| model      | size   |   params M |   params M (pub.) |   ratio |   top-1 % (pub.) |\n"
        "|------------|--------|------------|-------------------|---------|------------------|\n"
        "| overlock_t | 224    |      33.47 |                33 |    0.38 |             84.2 |\n"
        "| convnext_b | 224    |      88.59 |                89 |    1.00 |             83.8 |"
    )


def test_latex_and_plain() -> None:
    frame = wide([r for r in RECORDS if r.metric == "params"], ENTRIES, "convnext_b")
    assert "overlock\\_t & 224" in render(frame, "latex")
    assert "\\toprule" in render(frame, "latex")
    assert render(frame, "table").splitlines()[3].split() == ["overlock_t", "224", "33.47", "33", "0.38", "84.2"]


def test_csv_has_whole_units() -> None:
    frame = pd.read_csv(io.StringIO(render(wide(RECORDS, ENTRIES, "convnext_b"), "csv")))
    first = frame.iloc[0]
    assert (first["params"], first["params_published"], first["macs_published"]) == (33_467_040, 33e6, 5.5e9)
    assert (first["throughput_ratio"], first["throughput_ratio_lo"], first["throughput_ratio_hi"]) == (1.49, 1.45, 1.53)
    assert frame.iloc[1]["memory_status"] == "OOM"
    assert not frame.iloc[1]["valid"]


def test_ratio_is_to_the_same_conditions_and_to_the_only_form() -> None:
    records = [
        record("overlock_t", "memory", 3.0, form="train"),
        record("overlock_t", "memory", 6.0),
        record("overlock_t", "memory", 9.0, batch=8),
        record("overlock_t", "memory", 2.0, resolution="384"),
        record("convnext_b", "memory", 4.0),
        record("convnext_b", "memory", 3.0, batch=8),
        record("convnext_b", "memory", 1.0, resolution="384"),
    ]
    assert list(wide(records, ENTRIES, "convnext_b")["memory_ratio"]) == [0.75, 1.5, 3.0, 2.0, 1.0, 1.0, 1.0]
    assert wide(records, ENTRIES, "overlock_t")["memory_ratio"].isna().sum() == 0


def test_of_what_was_timed_only_a_paired_ratio_is_shown() -> None:
    """A quotient of medians has no interval, and its sides may have been measured minutes apart."""
    records = [record("overlock_t", "throughput", 6.0), record("convnext_b", "throughput", 4.0)]
    frame = wide(records, ENTRIES, "convnext_b")
    assert frame["throughput_ratio"].isna()[0]
    assert frame["throughput_ratio"][1] == 1.0


def test_a_single_round_tells_no_spread() -> None:
    records = [
        record("overlock_t", "throughput", 6.0, lo=6.0, hi=6.0, n=1),
        record("overlock_t", "throughput_ratio", 1.5, lo=0.0, hi=math.inf, n=1, against="convnext_b deploy"),
        record("convnext_b", "throughput", 4.0, lo=4.0, hi=4.0, n=1),
    ]
    text = render(wide(records, ENTRIES, "convnext_b"), "table")
    assert "1.50 (one round)" in text
    assert "±" not in text
    assert "inf" not in text


def test_a_sweep_has_a_row_for_each_point() -> None:
    """Cost belongs to every row of a size, latency (batch 1) to every batch of a dtype."""
    records = [record("resnet18", "params", 11e6)]
    for dtype in ("float32", "bfloat16"):
        records.append(record("resnet18", "latency", 0.01, dtype=dtype, batch=1))
        records += [record("resnet18", "throughput", 10.0 * n, dtype=dtype, batch=n) for n in (2, 4)]
    frame = wide(records, ENTRIES, "resnet18")
    assert list(zip(frame["dtype"], frame["batch"], strict=True)) == [
        ("float32", 2),
        ("float32", 4),
        ("bfloat16", 2),
        ("bfloat16", 4),
    ]
    assert list(frame["throughput"]) == [20.0, 40.0, 20.0, 40.0]
    assert set(frame["params"]) == {11e6}
    assert set(frame["latency"]) == {0.01}


def test_published_cost_is_not_beside_the_training_form() -> None:
    frame = wide([record("overlock_t", "macs", 5.99e9, form="train")], ENTRIES, None)
    assert frame["macs_published"].isna().all()


@pytest.mark.parametrize(
    ("failed", "shown"), [(("OOM: no",), "OOM"), (("killed by SIGKILL",), "failed"), (("RuntimeError: x",), "failed")]
)
def test_what_stands_for_a_missing_figure(failed: tuple[str, ...], shown: str) -> None:
    records = [record("convnext_b", "throughput", None).failed(*failed), record("resnet18", "throughput", 4.0)]
    assert for_people(wide(records, ENTRIES, "resnet18"))[1] == [
        ["convnext_b", "224", shown, "", "83.8"],
        ["resnet18", "224", "4.0", "1.00", ""],
    ]


def test_an_invalid_figure_is_marked_and_makes_no_ratio() -> None:
    bad = replace(record("convnext_b", "throughput", 8.0), valid=False, reasons=("outputs are not finite",))
    frame = wide([bad, record("resnet18", "throughput", 4.0)], ENTRIES, "convnext_b")
    assert for_people(frame)[1][0][2] == "8.0 (invalid)"
    assert frame["throughput_ratio"][0] is None or frame["throughput_ratio"].isna()[0]


def test_conditions_are_columns_where_they_differ_and_words_where_not() -> None:
    assert (
        shared_conditions(wide(RECORDS, ENTRIES, None)) == "deploy form, float32, batch 4, channels_last, ContMix tiled"
    )
    other = replace(RECORDS[7], layout="channels_first")
    frame = wide([*RECORDS[:7], other], ENTRIES, None)
    assert "layout" in for_people(frame)[0]
    assert "channels" not in shared_conditions(frame)


def test_lines_below() -> None:
    frame = wide(RECORDS, ENTRIES, "convnext_b")
    lines = below(frame, RECORDS, "a machine", "convnext_b", True, ENTRIES)
    assert lines[0].startswith("Measured on a machine; deploy form, float32")
    assert "convnext_b 224 deploy float32 batch 4 memory: OOM: can't allocate" in lines
    assert any("overlock_t at 224: flops 5.5 G" in line and "README" in line and "primary" in line for line in lines)
    assert comment(["x"], "latex") == ["% x"]
