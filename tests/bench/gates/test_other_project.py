"""The gates on another project's models, in a repository of its own: green, red for what is planted, and refusals."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench import gate
from bench.cli import BadInput
from bench.paths import REPOSITORY

EXAMPLE = Path(__file__).parent / "example_project"
SPEED = ("--resolutions", "64", "--batch-size", "2", "--threads", "1", "--margin", "0.5", "--rounds", "2")


def git(folder: Path, *args: str) -> None:
    who = ("-c", "user.name=t", "-c", "user.email=t@t")
    subprocess.run(["git", "-C", str(folder), *who, *args], check=True, capture_output=True)


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """The example package in a repository of its own."""
    folder = tmp_path / "example"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "benchmarks").mkdir()
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "the network")
    return folder


def run(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench.gate", *args]
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=300)


def planted(folder: Path, old: str, new: str) -> None:
    path = folder / "example_nets" / "__init__.py"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.slow
def test_exact_is_green_and_a_planted_fault_is_red(example: Path) -> None:
    missing = run(example, "--exact")
    assert missing.returncode == 2
    assert "benchmarks/expected.csv" in missing.stderr
    assert "--update writes" in missing.stderr
    assert run(example, "--exact", "--update").returncode == 0
    assert "example_tiny,deploy,params,,,3274" in (example / "benchmarks" / "expected.csv").read_text()
    green = run(example, "--exact")
    assert green.returncode == 0, green.stdout + green.stderr
    planted(example, "WIDTH = 16", "WIDTH = 17")
    red = run(example, "--exact", "--format", "markdown")
    assert red.returncode == 1
    assert re.search(r"\| DIFFERS +\| example_tiny deploy +\| params ", red.stdout)


@pytest.mark.slow
def test_speed_sees_a_slower_commit_and_names_both(example: Path) -> None:
    green = run(example, "--speed", "--base", "HEAD", *SPEED)
    assert green.returncode == 0, green.stdout + green.stderr
    planted(
        example,
        "torch.relu(self.mix(self.stem(images)))",
        "torch.relu(sum(self.mix(self.stem(images)) for _ in range(20)))",
    )
    dirty = run(example, "--speed", "--base", "HEAD", *SPEED)
    assert dirty.returncode == 2
    assert "uncommitted changes in example_nets/__init__.py" in dirty.stderr
    git(example, "commit", "-qam", "slower")
    red = run(example, "--speed", "--base", "HEAD~1", *SPEED)
    assert red.returncode == 1, red.stdout + red.stderr
    assert "example_tiny" in red.stdout
    assert "REGRESSION" in red.stdout


def test_a_name_of_nobodys_is_refused_without_modules_that_could_register_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.overlock-bench]\nmodels = ["mine_tiny"]\n')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="unknown model 'mine_tiny'"):
        gate.main(["--exact"])


def test_an_installed_suite_does_not_overwrite_its_own_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As from a wheel: no checkout around it, and no project in the working directory."""
    monkeypatch.setattr("bench.project.REPOSITORY", tmp_path / "site-packages")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="give --expected FILE, or say"):
        gate.main(["--exact", "--update", "--models", "moganet_xt"])
