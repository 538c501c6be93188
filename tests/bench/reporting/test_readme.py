"""The README's table is what its command prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.compare import tables
from bench.paths import REPOSITORY
from bench.records.record import Record
from bench.records.store import results_folder
from bench.reporting.data import gather
from bench.reporting.readme import headline


@pytest.fixture(scope="module")
def shown() -> list[Record]:
    """The committed records that the README shows."""
    return [found.record for row in headline(gather(results_folder())) for found in row.cells.values()]


@pytest.fixture(scope="module")
def readme() -> str:
    return Path(REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_the_table_is_what_compare_prints_of_the_same_records(shown: list[Record], readme: str) -> None:
    block = readme.partition("<!-- bench.report:table -->")[2].partition("<!-- /bench.report:table -->")[0]
    table = block.strip().partition("\n\n")[0]
    assert tables(shown, "markdown") == table


def test_the_command_names_its_models_in_order_and_the_baseline_last(shown: list[Record], readme: str) -> None:
    models = list(dict.fromkeys(record.model for record in shown))
    assert f"--models {' '.join(models)} --save" in readme
    assert {record.against for record in shown if record.against} == {f"{models[-1]} deploy"}
