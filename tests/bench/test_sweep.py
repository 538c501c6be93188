"""The command bench.sweep: what it shows, and its exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import cli, sweep
from bench.cli import BadInput
from bench.cluster import cell as cells
from bench.cluster.grid import read
from bench.records import store
from tests.bench.cluster.planted.compare import ENVIRONMENT, figure

GRID = '[options]\nmetrics = ["params"]\n[grid]\nmodels = ["overlock_xt", "moganet_xt"]\n'


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(GRID)
    return path


def test_a_dry_run_shows_every_command(grid: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep.main([str(grid), "--dry-run"]) == cli.OK
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[2] for line in lines] == [
        "bench.compare --metrics params --models overlock_xt",
        "bench.compare --metrics params --models moganet_xt",
    ]
    assert not grid.with_name("small-cells").exists()


def test_status_shows_how_cells_stand_and_scripts_see_it(grid: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (grid.with_name("small-cells") / "cells" / cell.name for cell in read(grid).cells)
    assert sweep.main([str(grid), "--status"]) == cli.UNDECIDED
    for folder, code in ((first, 0), (second, 2)):
        cells.begin(folder, {"job": "1", "host": "here"})
        cells.end(folder, {"code": code, "seconds": 3.0, "words": "no" if code else ""})
    assert sweep.main([str(grid), "--status", "--format", "csv"]) == cli.BAD_INPUT
    rows = capsys.readouterr().out.splitlines()[-2:]
    assert rows[0].split(",")[1:3] == ["done", "1"]
    assert rows[1].split(",")[1:3] == ["failed", "1"]
    cells.end(second, {"code": 0})
    assert sweep.main([str(grid), "--status"]) == cli.OK


@pytest.mark.parametrize("measured", [False, True])
def test_where_things_are_is_said_at_the_end(
    measured: bool, grid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trainings write no records: then no folder of records is named."""
    for cell in read(grid).cells:
        folder = grid.with_name("small-cells") / "cells" / cell.name
        cells.begin(folder, {"job": "1", "host": "here"})
        cells.end(folder, {"code": 0, "seconds": 3.0})
    if measured:
        store.save([figure(1.0, "a")], ENVIRONMENT, folder / cells.RECORDS)
    results = tmp_path / "results"
    assert sweep.main([str(grid), "--results", str(results)]) == cli.OK
    last = capsys.readouterr().err.splitlines()[-1]
    assert ("records are in" in last) == measured == results.exists(), last
    assert str(results if measured else folder.parent) in last


def test_slurm_where_there_is_none_is_said(grid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(BadInput, match="there is no sbatch"):
        sweep.main([str(grid), "--executor", "slurm"])


def test_an_unknown_parameter_of_a_job_is_named(grid: Path) -> None:
    grid.write_text(GRID + "[executor]\nslurm_partitoin = 'gpu'\nnonsense = 1\n")
    with pytest.raises(BadInput, match="nonsense"):
        sweep.main([str(grid), "--results", str(grid.parent / "results")])
