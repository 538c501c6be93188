"""Tables from records made by hand: the exact text, and what stands in the place of a missing figure."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from bench.metrics import METRICS
from bench.models import MODELS
from bench.published import beside, shown
from bench.records.record import Record
from bench.render import below, table
from bench.reporting.footnotes import footnotes
from bench.reporting.rows import as_measured
from bench.reporting.tables import comparison, shared
from tests.bench.reporting.made_records import record as made
from tests.bench.reporting.made_records import timed as made_timed


def record(model: str, metric: str, value: float | None, form: str = "deploy", **kwargs: object) -> Record:
    conditions = {"run": "", "time": "", "form": form, **kwargs}
    if METRICS[metric].cost:
        return made(model, metric, value, **conditions)
    bounds = {"lo": None, "hi": None} if "lo" not in kwargs else {}
    ran = {"layout": "channels_last", "compile": "none", **bounds, **conditions}
    filled = made_timed(model, metric, value or 0.0, **ran)
    return replace(filled, value=value, unit=METRICS[metric].unit)


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


def cells(*records: Record, style: str = "markdown") -> list[list[str]]:
    """The cells of a Markdown table, its headings first."""
    lines = comparison(as_measured(records), style).splitlines()
    parsed = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [parsed[0], *parsed[2:]]


def test_table_for_people() -> None:
    assert cells(*RECORDS) == [
        ["model", "parameters M", "published", "MACs G", "published", "throughput images/s",
         "throughput ratio to convnext_b", "memory MiB", "top-1 % (published)"],
        ["overlock_t", "33.47", "33", "5.64", "5.5", "12.0 ±2.5%", "1.49 [1.45, 1.53]", "48.0", "84.2"],
        ["convnext_b", "88.59", "89", "15.35", "15.4", "8.0 ±1.2%", "", "OOM", "83.838"],
    ]  # fmt: skip


def test_markdown() -> None:
    rows = as_measured([r for r in RECORDS if r.metric == "params"])
    assert comparison(rows) == (
        "| model      |   parameters M |   published |   top-1 % (published) |\n"
        "|------------|----------------|-------------|-----------------------|\n"
        "| overlock_t |          33.47 |          33 |                  84.2 |\n"
        "| convnext_b |          88.59 |          89 |                83.838 |"
    )


def test_latex_and_plain() -> None:
    rows = as_measured([r for r in RECORDS if r.metric == "params"])
    paper = comparison(rows, "latex", caption="Measured on machine_a.")
    assert "OverLoCK-T & 33.47 & 33 &" in paper
    assert "\\toprule" in paper
    assert "\\caption{Measured on machine\\_a. Figures headed published" in paper
    assert comparison(rows, "table").splitlines()[3].split() == ["overlock_t", "33.47", "33", "84.2"]


def test_a_single_round_tells_no_spread() -> None:
    text = comparison(as_measured([
        record("overlock_t", "throughput", 6.0, lo=6.0, hi=6.0, n=1),
        record("overlock_t", "throughput_ratio", 1.5, lo=0.0, hi=math.inf, n=1, against="convnext_b deploy"),
        record("convnext_b", "throughput", 4.0, lo=4.0, hi=4.0, n=1),
    ]))  # fmt: skip
    assert "1.50 (one round)" in text
    assert "±" not in text
    assert "inf" not in text


def test_a_sweep_has_a_row_for_each_point() -> None:
    """Cost belongs to every row of a size, latency (batch 1) to every batch of a dtype; the order is as measured."""
    records = [record("resnet18", "params", 11e6)]
    for dtype in ("float32", "bfloat16"):
        records.append(record("resnet18", "latency", 0.01, dtype=dtype, batch=1))
        records += [record("resnet18", "throughput", 10.0 * n, dtype=dtype, batch=n) for n in (2, 4)]
    headings, *lines = cells(*records)
    assert headings == ["model", "dtype", "batch", "parameters M", "throughput images/s", "latency ms"]
    assert [line[1:] for line in lines] == [
        ["float32", "2", "11.00", "20.0", "10.0"],
        ["float32", "4", "11.00", "40.0", "10.0"],
        ["bfloat16", "2", "11.00", "20.0", "10.0"],
        ["bfloat16", "4", "11.00", "40.0", "10.0"],
    ]


def test_published_cost_is_not_beside_the_training_form() -> None:
    (row,) = as_measured([record("overlock_t", "macs", 5.99e9, form="train")])
    assert row.published("macs") == []
    assert row.published("top1") == ["84.2"]


@pytest.mark.parametrize(
    ("failed", "text"), [(("OOM: no",), "OOM"), (("killed by SIGKILL",), "failed"), (("RuntimeError: x",), "failed")]
)
def test_what_stands_for_a_missing_figure(failed: tuple[str, ...], text: str) -> None:
    records = [record("convnext_b", "throughput", None).failed(*failed), record("resnet18", "throughput", 4.0)]
    assert cells(*records)[1:] == [["convnext_b", text, "83.838"], ["resnet18", "4.0", ""]]


def test_conditions_are_columns_where_they_differ_and_words_where_not() -> None:
    rows = as_measured(RECORDS)
    assert shared(rows) == "at 224, deploy form, cpu, float32, batch 4, channels_last, CPU threads 2, ContMix tiled"
    other = as_measured([*RECORDS[:7], replace(RECORDS[7], layout="channels_first")])
    assert "layout" in comparison(other)
    assert "channels" not in shared(other)


def test_lines_below() -> None:
    lines = footnotes(as_measured(RECORDS), "a machine", sources=True, verbose=True)
    assert lines[0].startswith("Measured on a machine; at 224, deploy form, cpu, float32")
    assert any(line.startswith("convnext_b memory: OOM: can't allocate") for line in lines)
    assert any("overlock_t at 224: FLOPs 5.5 G" in line and "README" in line and "primary" in line for line in lines)
    assert below(["x"], "latex") == "% x"


def test_published_cells_are_those_of_the_one_reader_for_every_model_size_and_metric() -> None:
    """The table of `bench.compare` and of `bench.report` is one; so are its published cells, `bench.top1`'s too."""
    contradicting = 0
    for model in MODELS:
        for size in ("224", "256", "384"):
            headings, line = cells(*(record(model, metric, 1e9, resolution=size) for metric in ("params", "macs")))
            for metric in ("params", "macs"):
                place = headings.index(METRICS[metric].title) + 1
                text = line[place] if headings[place : place + 1] == ["published"] else ""
                assert text == shown(beside(metric, model, size)), (model, size, metric)
                contradicting += "/" in text
            text = line[-1] if headings[-1].startswith("top-1") else ""
            assert text == shown(beside("top1", model, size)), (model, size)
            contradicting += "/" in text
    assert contradicting > 5


def test_the_parts_of_a_wide_table_for_latex_tell_rows_apart() -> None:
    headings = ["model", "size", *(f"a figure of number {i}" for i in range(6))]
    sizes = [["overlock_t", size, *["1,234.5 [1,200.0, 1,300.0]"] * 6] for size in ("224", "384")]
    parts = table(headings, sizes, "latex", words=2).split("\\begin{table}")[1:]
    assert len(parts) > 1
    assert all("OverLoCK-T & 224 &" in part and "OverLoCK-T & 384 &" in part for part in parts)
    once = table(headings, sizes[:1], "latex", words=2).split("\\begin{table}")[1:]
    assert sum("& 224 &" in part for part in once) == 1, "a name that says it all stands alone"
