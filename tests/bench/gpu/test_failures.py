"""The simulation of whole runs with planted failures."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from bench import gpu_run
from bench.cli import BadInput
from bench.gpu import failures, simulation
from bench.gpu.failures import SCENARIOS, Scenario, table_of_failures
from bench.gpu.kept import Kept


def test_what_is_planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(simulation.VARIABLE, str(tmp_path))  # which the run would set for itself
    for text in ("oom", "oom@headline", "quake@headline:1", "oom@nowhere:1", "oom@headline:x"):
        with pytest.raises(BadInput, match="give FAILURE@PART:N, such as oom@headline:4"):
            gpu_run.main(["--out", str(tmp_path), "--simulate", "--plant", text])
    with pytest.raises(BadInput, match="--speed 0: give 1 to 1000"):
        gpu_run.main(["--out", str(tmp_path), "--simulate", "--plant", "nothing", "--speed", "0"])


def test_a_killed_part_and_a_stopped_run_lose_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenarios = [Scenario("the part is killed", ("kill-part@training:6",), 0, ("training",)),
                 Scenario("the run is killed", ("kill-run@training:8",), -9, ("training",))]  # fmt: skip
    assert table_of_failures(tmp_path / "out", 60, scenarios) == 0
    printed = capsys.readouterr().out
    assert "timing overlock_xt train" in printed
    assert sum(int(line.split("|")[5]) for line in printed.splitlines()[2:]) >= 4, "something was measured"


def test_a_planted_ctrl_c_arrives_also_where_a_shell_has_it_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in what a script starts with `&`
    try:
        scenario = Scenario("the run gets SIGINT", ("interrupt@training:6",), 130, ("training",))
        assert table_of_failures(tmp_path / "out", 60, [scenario]) == 0
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(("took", "lost", "tries"), [("1300", 0, 2), ("1300", 1, 1), ("500", 0, 1)])
def test_a_run_that_was_held_up_is_tried_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, took: str, lost: int, tries: int
) -> None:
    """But not one that has lost something, or that ended in its time."""
    made: list[Path] = []

    def tried(scenario: Scenario, out: Path, speed: float) -> tuple[object, ...]:
        made.append(out)
        return scenario.what, "", took, 1, 5, 5 - lost, lost, "exit code 1, not 0"

    monkeypatch.setattr(failures, "_tried", tried)
    assert table_of_failures(tmp_path, 12, [Scenario("nothing", ())]) == 1
    assert made == [tmp_path / "01", tmp_path / "01" / "again"][:tries]


def test_what_is_lost_is_seen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check can fail: blocks that reach nobody are missed."""
    site = tmp_path / "sitecustomize.py"
    site.write_text("import bench.gpu.kept as k\nkeep = k.Kept.take\nk.Kept.take = lambda self, part, m: "
                    "keep(self, part, {n: v for n, v in m.items() if n != 'block'})\n")  # fmt: skip
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(failures.__file__).resolve().parents[2]}")
    scenario = Scenario("the part is killed", ("kill-part@training:6",), 0, ("training",))
    assert table_of_failures(tmp_path / "out", 60, [scenario]) == 1
    assert "measured things are lost" in capsys.readouterr().out


@pytest.mark.slow
def test_nothing_is_lost_whatever_fails(tmp_path: Path) -> None:
    """Minutes: the table of docs/gpu.md."""
    assert table_of_failures(tmp_path / "out", 12, SCENARIOS) == 0


def test_an_archive_can_be_summarised_later(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from bench.gpu.archive import ARCHIVE, Archive

    environment = {"cpu": "a", "cores": 1, "memory_bytes": 1, "os": "b", "python": "3", "device": "cpu",
                   "libraries": {"torch": "2", "timm": "1"}}  # fmt: skip
    kept = Kept(environment, "run")
    kept.take("headline", {"block": {"side": "a b (c)", "round": 1, "seconds": 0.25}})
    kept.take("correctness", {"planned": ["x", "y"]})
    Archive(tmp_path).write(kept.texts())
    assert gpu_run.main(["--summarise", str(tmp_path / ARCHIVE)]) == 1
    printed = capsys.readouterr().out
    assert "a b (c): no figure, but 1 blocks, 250.00 ms a call" in printed
    assert "NOT KNOWN: no kernel was found wrong, but not every test ended (2 not ended)" in printed
