"""The pages name files, folders and commands that exist, and the page on the architecture names every folder."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_exists(page: Path) -> None:
    text = page.read_text()
    paths = re.findall(r"`((?:overlock|baselines|bench|tests|docs|results)/[\w./-]*)`", text)
    commands = re.findall(r"python3? -m ((?:overlock|bench)[\w.]*\w)", text)
    files = [*paths, *(f"{command.replace('.', '/')}.py" for command in commands)]
    assert [name for name in files if not (ROOT / name).exists()] == []


def test_the_architecture_page_names_every_folder() -> None:
    """A folder's own folders may go unnamed."""
    folders = {path.parent for package in ("overlock", "baselines", "bench") for path in (ROOT / package).rglob("*.py")}
    names = {"/".join(folder.relative_to(ROOT).parts[:2]) for folder in folders}
    text = (ROOT / "docs" / "architecture.md").read_text()
    assert {name for name in names if f"| `{name}/` |" not in text} == set()
