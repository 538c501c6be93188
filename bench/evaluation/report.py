"""What the commands of evaluation print: one table of their records, and lines below it. Imports no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from bench.machine.environment import describe
from bench.records.record import Record, to_json
from bench.render import as_csv, below, by_heading

Cell = str | float | None
WEIGHTS = 12  # digits of a hash that are shown


def last_columns(record: Record) -> dict[str, Cell]:
    """The columns that every such table ends with."""
    return {"images": record.n, "valid": "yes" if record.valid else "no", "weights": record.weights[:WEIGHTS]}


def render(
    records: Sequence[Record],
    rows: Sequence[Mapping[str, Cell]],
    lines: Sequence[str],
    comparisons: Sequence[object],
    environment: dict[str, Any],
    style: str,
) -> str:
    """Records in one of `bench.cli.FORMATS`.

    Args:
        records: what JSON has in full.
        rows: the table, each with all columns; floats are per cent.
        lines: what stands below the table, before the machine.
        comparisons: of models with each other, for JSON.
        environment: of the run.
        style: the format.
    """
    if style == "json":
        return json.dumps(json.loads(to_json(environment, records)) | {"comparisons": comparisons}, indent=1)
    if style == "csv":
        return as_csv([{k: None if isinstance(v, float) and math.isnan(v) else v for k, v in r.items()} for r in rows])
    text = by_heading(rows, style, digits=3)
    return f"{text}\n\n{below([*lines, describe(environment)], style)}"
