"""The description of a machine, and whether its tree is dirty."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bench.machine import environment


def test_the_machine_s_line_has_the_vector_level() -> None:
    known = {
        "cpu": "A CPU", "cores": 2, "memory_bytes": 8 << 30, "os": "Linux", "python": "3.12", "device": "cpu",
        "libraries": {"torch": "2.15.0", "timm": "1.0"},
    }  # fmt: skip
    assert environment.describe(known) == "A CPU, 2 cores, 8 GiB; Linux; Python 3.12, torch 2.15.0, timm 1.0"
    assert "8 GiB, AVX512;" in environment.describe({**known, "cpu_capability": "AVX512"})


def test_kept_records_make_no_tree_dirty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A series of runs from one commit: the first one's records must not mark the second one's. Code does."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[tool.overlock-bench]\nmodels = ['mine']\n")
    records, code, expected = (tmp_path / p for p in ("results/m/records.csv", "bench/x.py", "results/expected.csv"))
    for path in (records, code, expected):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("a\n")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for args in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
        subprocess.run([*git, *args], check=True)
    assert environment.revision()["dirty"] is False
    records.write_text("b\n")
    assert environment.revision()["dirty"] is False
    for path in (code, expected):
        path.write_text("b\n")
        assert environment.revision()["dirty"] is True
        path.write_text("a\n")
