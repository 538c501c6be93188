"""Whose models are gated: what `[tool.overlock-bench]` says, and what holds without it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import project as module
from bench.cli import BadInput
from bench.paths import REPOSITORY
from bench.project import project


def test_without_a_table_it_is_this_checkout(tmp_path: Path) -> None:
    for start in (REPOSITORY, REPOSITORY / "bench", tmp_path):
        found = project(start)
        assert not found.configured
        assert found.expected == REPOSITORY / "results" / "expected.csv"


def test_an_installed_suite_without_a_table_is_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REPOSITORY", tmp_path / "site-packages")
    assert project(tmp_path).results == tmp_path / "results"


def test_the_nearest_table_counts(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[tool.overlock-bench]\nmodels = ["mine_*"]\nimports = ["mine.nets"]\nexpected = "bench/figures.csv"\n'
    )
    (tmp_path / "sub" / "deep").mkdir(parents=True)
    (tmp_path / "sub" / "pyproject.toml").write_text("[tool.other]\n")
    found = project(tmp_path / "sub" / "deep")
    assert found.configured
    assert found.root == tmp_path
    assert (found.models, found.speed_models, found.packages) == (("mine_*",), ("mine_*",), ("mine",))
    assert found.expected == tmp_path / "bench" / "figures.csv"


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ('model = ["mine"]', "'model', and only models"),
        ('imports = ["mine"]', "say which models are gated"),
        ('models = "mine"', "a list of text"),
        ("models = [1]", "a list of text"),
        ('models = ["mine"]\nexpected = 3', "should be text"),
        ("models = [", "pyproject.toml"),
        ("models = " + "[" * 100_000, "pyproject.toml"),
        ("models = " + "9" * 5000, "pyproject.toml"),
        ('models = ["mine"]\nexpected = "\\u0000"', "should be text"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(table: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(f"[tool.overlock-bench]\n{table}\n")
    with pytest.raises(BadInput, match=words):
        project(tmp_path)
