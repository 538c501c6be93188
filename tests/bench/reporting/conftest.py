"""What the tests of the report share."""

from __future__ import annotations

import pytest

from bench.records.store import results_folder
from bench.reporting.data import Report, gather


@pytest.fixture(scope="session")
def committed() -> Report:
    """The report of the records that this checkout has."""
    return gather(results_folder())
