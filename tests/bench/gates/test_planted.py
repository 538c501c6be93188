"""The exact gate, run as a user runs it, on planted faults: each is caught, with the right verdict and exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench.gates.faults import EXACT, copy_with, gate


def test_exact_gate_is_green_on_the_code_as_it_is(tmp_path: Path) -> None:
    done = gate(copy_with(None, tmp_path), "--exact", "--models", "moganet_xt", "--output", "verdict.md")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip() == "Exact gate: 12 OK"
    assert (tmp_path / "verdict.md").read_text() == done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", EXACT)
def test_planted_fault_is_caught(name: str, tmp_path: Path) -> None:
    fault = EXACT[name]
    done = gate(copy_with(fault, tmp_path), "--exact", "--models", fault.model, "--format", "json")
    assert done.returncode == fault.code, done.stdout + done.stderr
    rows = json.loads(done.stdout)["rows"]
    wrong = {row["metric"] for row in rows if row["verdict"] == ("DIFFERS" if fault.code == 1 else "INVALID")}
    assert wrong == set(fault.metrics)


def test_update_writes_what_is_measured_and_the_gate_is_green_again(tmp_path: Path) -> None:
    folder = copy_with(EXACT["outputs 0.001 higher"], tmp_path)
    before = (folder / "results" / "expected.csv").read_text().splitlines()
    updated = gate(folder, "--exact", "--models", "moganet_xt", "--update")
    assert updated.returncode == 0
    assert "2 DIFFERS, 10 OK" in updated.stdout  # bfloat16 hardly sees so little
    after = (folder / "results" / "expected.csv").read_text().splitlines()
    assert len(after) == len(before)
    assert sum(a != b for a, b in zip(after, before, strict=True)) == 2
    assert gate(folder, "--exact", "--models", "moganet_xt").returncode == 0
