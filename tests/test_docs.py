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


def test_the_page_on_variables_has_each_that_is_read() -> None:
    """Those of our own, and what is asked of the environment by name."""
    read = set()
    for path in (path for package in ("overlock", "baselines", "bench") for path in (ROOT / package).rglob("*.py")):
        text = path.read_text()
        read |= set(re.findall(r"""environ(?:\.get\(|\[)["']([A-Z_]+)["']""", text))
        read |= set(re.findall(r"""["']((?:OVERLOCK|BENCH)_[A-Z]+)["']""", text))
    page = (ROOT / "docs" / "environment.md").read_text()
    assert {"OVERLOCK_NATIVE", "OVERLOCK_OFFLINE", "BENCH_IMAGENET", "CC"} <= read
    assert {name for name in read if f"`{name}`" not in page} == set()


def test_the_site_has_every_page() -> None:
    listed = re.findall(r": ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


def test_the_architecture_page_names_every_folder() -> None:
    """A folder's own folders may go unnamed."""
    folders = {path.parent for package in ("overlock", "baselines", "bench") for path in (ROOT / package).rglob("*.py")}
    names = {"/".join(folder.relative_to(ROOT).parts[:2]) for folder in folders}
    text = (ROOT / "docs" / "architecture.md").read_text()
    assert {name for name in names if f"| `{name}/` |" not in text} == set()
