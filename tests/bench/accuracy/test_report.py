"""The table of top-1: which published figure stands beside a row."""

from __future__ import annotations

import pytest

from bench.accuracy.report import FINE_TUNED, rows
from bench.records.record import Record


@pytest.mark.parametrize(
    ("resolution", "notes", "published"),
    [("224", (), "83.838"), ("384", (), ""), ("384", (f"{FINE_TUNED} at 384, another file",), "85.1")],
)
def test_the_published_figure_is_of_the_weights_that_ran(
    resolution: str, notes: tuple[str, ...], published: str
) -> None:
    made = Record(model="convnext_b", form="deploy", metric="top1", value=80.0, unit="%", resolution=resolution,
                  lo=79.0, hi=81.0, n=100, weights="abc", notes=notes)  # fmt: skip
    (row,) = rows([made])
    assert row["published"] == published
