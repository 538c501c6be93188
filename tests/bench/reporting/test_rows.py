"""Which record stands where in a report: figures measured under other conditions never share a row."""

from __future__ import annotations

from dataclasses import replace

from bench.evidence.evidence import Evidence, Placed
from bench.records.record import Record
from bench.reporting.data import Report
from bench.reporting.readme import headline, parts
from bench.reporting.results import results_readme
from bench.reporting.rows import Row, main_rows, rows
from bench.reporting.tables import comparison
from tests.bench.reporting.made_records import record, timed

T = "overlock_t"
LATER = {"time": "2026-02-01T00:00:00+00:00", "run": "run-2"}


def rows_of(*records: Record) -> list[Row]:
    return rows(Placed(r, "") for r in records)


def report_of(*records: Record) -> Report:
    found = [Placed(r, f"file:{i}") for i, r in enumerate(records)]
    return Report(Evidence(found), {}, rows(found), [])


def test_a_batch_keeps_its_own_memory_and_energy() -> None:
    """The newest memory, of the larger batch, is not that of the smaller."""
    made = [timed(T, metric, 10.0 * batch, batch=batch) for metric in ("throughput", "memory", "energy")
            for batch in (1, 4)]  # fmt: skip
    found = {row.batch: row for row in rows_of(*made, timed(T, "latency", 0.5, batch=1), record(T, "top1", 84.2))}
    for batch in (1, 4):
        assert {found[batch].value(metric) for metric in ("throughput", "memory", "energy")} == {10.0 * batch}
        assert found[batch].value("latency") == 0.5, "a latency is of one image, whatever the batch beside it"


def test_an_accuracy_joins_the_rows_of_its_device_and_dtype() -> None:
    made = [
        timed(T, "throughput", 10.0, batch=batch, dtype=dtype) for batch in (1, 4) for dtype in ("float32", "bfloat16")
    ]
    found = rows_of(*made, timed(T, "top1", 84.2, batch=64, threads=1, backend="native"))
    assert [(row.batch, row.dtype) for row in found if row.value("top1")] == [(1, "float32"), (4, "float32")]


def test_an_accuracy_of_another_set_is_not_shown_as_that_of_imagenet() -> None:
    made = [timed(T, "top1", 84.2, dataset="imagenet:00"), timed(T, "top1", 12.0, dataset="imagenet-a:00", **LATER)]
    assert [row.value("top1") for row in rows_of(*made)] == [84.2]
    assert rows_of(timed(T, "miou", 12.0, dataset="custom:00", task="segmentation", head="upernet")) == []


def test_threads_and_backends_are_rows_of_their_own() -> None:
    """A slower backend that was asked for later does not stand for the model."""
    made = [
        timed(T, "throughput", 14.0, backend="native"),
        timed(T, "throughput", 8.0, backend="native", threads=1),
        timed(T, "throughput", 2.0, backend="reference", run="run-1"),
        timed("convnext_b", "throughput", 7.0),
    ]
    found = rows_of(*made)
    assert [(row.model, row.threads, row.backend) for row in found] == [
        (T, 1, "native"),
        (T, 2, "native"),
        (T, 2, "reference"),
        ("convnext_b", 2, ""),
    ]
    table = comparison(found)
    assert "backend" in table
    assert "threads" in table
    assert "backend" not in comparison([found[1], found[3]]), "ConvNeXt has none"
    shown = [(row.model, row.threads, row.backend) for row in main_rows(found)]
    assert shown == [(T, 1, "native"), (T, 2, "native"), ("convnext_b", 2, "")], "charts show the fastest"
    later = rows_of(*made, timed(T, "throughput", 2.5, backend="reference", **LATER))
    assert (T, 2, "reference") in [(row.model, row.threads, row.backend) for row in main_rows(later)]


def test_a_failure_of_no_known_backend_joins_the_row() -> None:
    ran = timed(T, "memory", 10.0, backend="native")
    failed = replace(timed(T, "throughput", 1.0), value=None, valid=False, reasons=("OOM: none left",))
    for order in ((ran, failed), (failed, ran)):
        (row,) = rows_of(*order)
        assert row.backend == "native"
        assert set(row.cells) == {"memory", "throughput"}


def test_of_one_run_the_fastest_configuration_stands() -> None:
    """Layouts, and what runs depthwise convolutions, are no conditions of a row; between runs the newest stands."""
    best, other = timed(T, "throughput", 9.0, n=3), timed(T, "throughput", 12.0, n=1)
    for order in ((best, other), (other, best)):
        (row,) = rows_of(*order)
        assert row.value("throughput") == 9.0, "of more processes"
    (row,) = rows_of(timed(T, "throughput", 9.0), timed(T, "throughput", 7.0, layout="channels_last"))
    assert row.value("throughput") == 9.0
    (row,) = rows_of(best, timed(T, "throughput", 8.0, **LATER))
    assert row.value("throughput") == 8.0
    first, second = (timed(T, "throughput_ratio", 2.0, against=f"{base} deploy") for base in ("convnext_b", T))
    (row,) = rows_of(first, second)
    assert row.cells["throughput_ratio"].record.against == "convnext_b deploy"


def test_training_has_tables_of_its_own() -> None:
    made = [
        timed("convnext_t", "throughput", 20.0),
        timed("convnext_t", "training", 5.0),
        timed(T, "training", 3.0, form="train"),
        timed(T, "training_ratio", 0.6, form="train", against="convnext_t deploy", lo=0.5, hi=0.7),
        record("convnext_t", "params", 28.6e6),
    ]
    found = rows_of(*made)
    assert [(row.model, row.training, sorted(row.cells)) for row in found] == [
        ("convnext_t", False, ["params", "throughput"]),
        (T, True, ["training", "training_ratio"]),
        ("convnext_t", True, ["params", "training"]),
    ]
    text = results_readme(report_of(*made))
    assert text.index("cpu float32\n") < text.index("cpu float32, training\n")
    assert "training ratio to convnext_t" in text
    assert not any(row.training for row in main_rows(found))
    (counted,) = main_rows(rows_of(timed(T, "training", 3.0), record(T, "macs", 5.6e9)))
    assert counted.value("macs") == 5.6e9, "what is counted is shown whatever was trained"


def test_the_headline_mixes_no_conditions() -> None:
    """The most models, not the smallest batch; the newest among as many."""
    models = (T, "convnext_t", "convnext_b")
    made = [timed(model, "throughput", 10.0) for model in models]
    made += [timed(T, "throughput", 3.0, batch=1), timed(T, "throughput", 5.0, threads=1)]
    report = report_of(*made)
    assert [(row.model, row.batch, row.threads) for row in headline(report)] == [(model, 4, 2) for model in models]
    assert "batch 4, CPU threads 2." in parts(report)["table"]
    newer = report_of(*made, *(timed(model, "throughput", 12.0, batch=8, **LATER) for model in models))
    assert {row.batch for row in headline(newer)} == {8}
