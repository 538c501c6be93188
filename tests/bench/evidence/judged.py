"""Statements by their ids, and verdicts on them from records made by hand."""

from __future__ import annotations

from bench.evidence.everything import statements
from bench.evidence.evidence import Evidence, Placed
from bench.evidence.finding import Finding
from bench.evidence.judge import judge
from bench.evidence.statement import Statement
from bench.published import Printed, Subject
from bench.records.record import Record
from tests.bench.reporting.made_records import cost, timed

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
