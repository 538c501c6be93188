"""Images that the tests of this folder share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.accuracy.trees import make_tree


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 images in class folders."""
    return make_tree(tmp_path_factory.mktemp("images") / "val")
