"""What holds, in about five lines: speed on each machine, memory, cost, accuracy, published statements."""

from __future__ import annotations

from collections.abc import Sequence

from bench.evidence import show
from bench.evidence.finding import Finding
from bench.metrics import METRICS
from bench.names import label
from bench.reporting.data import Report
from bench.reporting.readme import headlines, weight
from bench.reporting.rows import Row, main_rows
from bench.reporting.tables import cell, common_base, shared

FAMILY = "OverLoCK"
NAMED = 4  # models that a line names, and machines that have one


def lines(report: Report) -> list[tuple[str, str]]:
    """What each line is of, and what it says; a line of speed names its machine where there are several."""
    timed = sorted(headlines(report), key=weight, reverse=True)[:NAMED]
    if not timed and (rows := [row for row in main_rows(report.rows) if "throughput" in row.cells][: 2 * NAMED]):
        timed = [rows]
    places = [_place(rows) if len(report.machines) > 1 else "" for rows in timed]
    made = [
        *((f"Speed{place}", _speed(rows)) for place, rows in zip(places, timed, strict=True)),
        *((f"Memory{place}", _memory(rows)) for place, rows in zip(places[:1], timed[:1], strict=True)),
        ("Cost", _cost(report)),
        ("Accuracy", _accuracy(report)),
        ("Statements", _statements(report.findings)),
    ]
    return [(of, text) for of, text in made if text]


def _place(rows: Sequence[Row]) -> str:
    """The machine, and its device where that is no CPU."""
    device = rows[0].device
    return f" on {rows[0].machine}{'' if device in ('', 'cpu') else f', {device}'}"


def _statements(findings: Sequence[Finding]) -> str:
    questions = [finding for finding in findings if finding.statement.question]
    stated = [finding for finding in findings if not finding.statement.question]
    said = f"of {len(stated)} that others published: {show.summary(stated)}."
    return f"{said} Questions that no author answered: {show.summary(questions)}."


def _of_the_family(rows: Sequence[Row]) -> list[Row]:
    return ([row for row in rows if row.family == FAMILY] or list(rows))[:NAMED]


def _speed(rows: Sequence[Row]) -> str:
    """Paired ratios where there are any, else images per second."""
    under = f" ({shared(rows)}; 95 % intervals of paired rounds in brackets)"
    if base := common_base(rows, "throughput_ratio"):
        paired = [row for row in _of_the_family(rows) if "throughput_ratio" in row.cells]
        if named := [f"{label(row.model)} {cell(row, 'throughput_ratio', base)}" for row in paired]:
            return f"times as fast as {label(base.partition(' ')[0])}: {', '.join(named)}{under}."
    named = [
        f"{label(row.model)} {cell(row, 'throughput')}" for row in _of_the_family(rows) if "throughput" in row.cells
    ]
    return f"in images per second: {', '.join(named)} ({shared(rows)})." if named else ""


def _memory(rows: Sequence[Row]) -> str:
    known = sorted((row for row in rows if row.valid("memory") is not None), key=lambda row: row.valid("memory") or 0.0)
    if len(known) < 2:
        return ""
    least, most = known[0], known[-1]
    said = [f"{label(row.model)} {cell(row, 'memory')} MiB" for row in (least, most)]
    return f"a call takes, above the loaded model, from {said[0]} to {said[1]}, of {len(known)} models."


def _cost(report: Report) -> str:
    """Parameters and MACs of one pair at 224, as counted, and what of them the first one has."""
    usual = ("classification", "deploy", "224")
    counted = {row.model: row for row in report.rows if (row.task, row.form, row.resolution) == usual}
    one, other = counted.get("overlock_t"), counted.get("convnext_b")
    costs = ("params", "macs")
    if one is None or other is None or not all(row.valid(metric) for row in (one, other) for metric in costs):
        return ""
    said = [f"{cell(one, metric)} {METRICS[metric].shown_unit} {METRICS[metric].heading}" for metric in costs]
    shares = [f"{(one.valid(metric) or 0.0) / (other.valid(metric) or 1.0):.2f}" for metric in costs]
    return f"{label(one.model)} has {' and '.join(said)}, {' and '.join(shares)} of {label(other.model)}'s."


def _accuracy(report: Report) -> str:
    measured = [row for row in report.rows if row.task == "classification" and row.valid("top1") is not None]
    if not measured:
        return "nothing was measured here; each top-1 on this page is as published."
    named = dict.fromkeys(f"{label(row.model)} {cell(row, 'top1')} % at {row.resolution}" for row in measured)
    more = f", and {len(named) - NAMED} more" if len(named) > NAMED else ""
    return f"top-1 measured here: {', '.join(list(named)[:NAMED])}{more}; the others are as published."
