"""The speed gate: revisions, refusals, and that a red is measured again. Measuring itself is `bench.engine`'s."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.cli import BadInput
from bench.engine.outcome import Outcome, Replicate
from bench.engine.plan import Plan
from bench.engine.request import Request, Settings
from bench.gates import speed, worktrees
from bench.gates.speed import Rules
from bench.machine import calibration
from bench.machine.environment import collect
from bench.paths import REPOSITORY
from bench.project import Project
from bench.records import store
from bench.records.record import Record
from bench.validation import gate_trials as trials
from tests.bench.gates.faults import copy_with, gate

SETTINGS = Settings(device="cpu", batch=2, threads=1, layout="channels_last")
SIDE = Request(model="moganet_xt", form="deploy", resolution=(64, 64), settings=SETTINGS)
ANCHOR = replace(SIDE, model="convnext_t")


def git(folder: Path, *args: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@t", *args]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two commits of one file."""
    git(tmp_path, "init", "-q", "-b", "main")
    for text in ("one", "two"):
        (tmp_path / "file").write_text(text)
        git(tmp_path, "add", ".")
        git(tmp_path, "commit", "-qm", text)
    return tmp_path


def test_worktrees_hold_their_commits_and_are_gone_after(repository: Path) -> None:
    commits = [worktrees.commit_of(rev, repository) for rev in ("HEAD~1", "main")]
    with worktrees.checked_out(*commits, repository=repository) as roots:
        assert [(root / "file").read_text() for root in roots] == ["one", "two"]
    assert not any(root.exists() for root in roots)
    assert len(git(repository, "worktree", "list").splitlines()) == 1
    with pytest.raises(KeyError), worktrees.checked_out(*commits, repository=repository) as roots:
        raise KeyError
    assert not any(root.exists() for root in roots)
    assert len(git(repository, "worktree", "list").splitlines()) == 1


def test_an_unknown_revision_is_named(repository: Path) -> None:
    with pytest.raises(BadInput, match="--base nonsense"):
        worktrees.commit_of("nonsense", repository)


def test_uncommitted_files_are_seen(repository: Path) -> None:
    project = Project(root=repository, expected=repository, results=repository)
    assert worktrees.uncommitted(project) == []
    (repository / "file").write_text("three")
    (repository / "overlock").mkdir()
    (repository / "overlock" / "new.py").write_text("")
    assert worktrees.uncommitted(project) == ["file", "overlock/new.py"]


def test_a_dirty_tree_and_an_unknown_base_are_refused(tmp_path: Path) -> None:
    folder = copy_with(None, tmp_path)
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "all")
    done = gate(folder, "--speed", "--base", "nonsense")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "--base nonsense" in done.stderr
    (folder / "overlock" / "layers.py").write_text("")
    done = gate(folder, "--speed", "--base", "HEAD")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "uncommitted changes in overlock/layers.py" in done.stderr


def outcomes(speeds: Sequence[Sequence[float]], monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """Have the engine report, measurement after measurement, that the tip runs at these speeds of the base's."""
    plans: list[Plan] = []
    queue = list(speeds)

    def measure(sides: Sequence[Request], plan: Plan, begun: Any, outcome: Outcome | None = None) -> Iterator[Outcome]:
        plans.append(plan)
        replicates: list[list[Replicate | None]] = [[], []] if outcome is None else outcome.replicates
        for tip in queue.pop(0):
            for i, seconds in enumerate((1.0, 1.0 / tip)):
                last = {"canary": {"moved": 0.0, "work": "none"}}
                replicates[i].append(Replicate({"batch": 1, "steady": True}, [seconds], last=last))
        yield Outcome(list(sides), plan, replicates, [[], []], [False, False])

    monkeypatch.setattr(speed, "measure", measure)
    return plans


SLOW, EVEN, WIDE = (0.949, 0.95, 0.951), (0.999, 1.0, 1.001), (0.9, 1.0, 1.1)
RULES = Rules(margin=0.03, plan=Plan(rounds=3), most=6)


def judged() -> speed.Judgement:
    return speed.against_base(SIDE, SIDE, RULES)


def test_a_red_is_measured_again_and_confirmed(monkeypatch: pytest.MonkeyPatch) -> None:
    plans = outcomes([SLOW, SLOW], monkeypatch)
    assert judged().verdict == "REGRESSION"
    assert "a first run said 0.950" in judged_reason(monkeypatch, [SLOW, SLOW])
    assert len(plans) == 2


def judged_reason(monkeypatch: pytest.MonkeyPatch, speeds: Sequence[Sequence[float]]) -> str:
    outcomes(speeds, monkeypatch)
    return judged().reason


def test_a_red_that_does_not_come_again_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes([SLOW, EVEN], monkeypatch)
    found = judged()
    assert found.verdict == "OK"
    assert "did not confirm" in found.reason


def test_rounds_are_added_until_decided_or_the_most(monkeypatch: pytest.MonkeyPatch) -> None:
    plans = outcomes([WIDE, WIDE], monkeypatch)
    found = judged()
    assert (found.verdict, found.cells["rounds"], len(plans)) == ("UNDECIDED", "6", 2)
    assert "could not be seen" in found.reason


def test_one_quiet_measurement_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    plans = outcomes([EVEN], monkeypatch)
    assert (judged().verdict, len(plans)) == ("OK", 1)


def test_a_side_that_cannot_run_is_invalid(tmp_path: Path) -> None:
    """Real processes: the base has no such package."""
    base, tip = speed.revisions_of(SIDE, [copy_with(None, tmp_path), tmp_path])
    (tmp_path / "baselines" / "moganet.py").write_text("raise RuntimeError('planted')\n")
    rules = Rules(margin=0.03, plan=Plan(rounds=1, turns=1, block=0.05, warmup=0.1))
    found = speed.against_base(base, tip, rules)
    assert found.verdict == "INVALID"
    assert "planted" in found.reason


def beside(recorded: Sequence[Record], recording: bool = False) -> tuple[speed.Judgement, Record]:
    planned = replace(speed.planned(SIDE, ANCHOR), machine="here", run="r")
    return speed.beside_anchor(SIDE, ANCHOR, planned, recorded, RULES, recording)


def test_the_ratio_to_the_anchor_is_recorded_with_its_conditions(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes([EVEN], monkeypatch)
    found, record = beside([], recording=True)
    assert (found.verdict, record.against, record.batch, record.threads) == ("INVALID", "convnext_t deploy", 2, 1)
    assert "nothing of the kind was recorded" in found.reason
    assert (record.layout, record.device, record.machine, record.unit) == ("channels_last", "cpu", "here", "ratio")
    assert record.samples == pytest.approx([1 / v for v in EVEN])


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "OK"), (0.94, "REGRESSION"), (1.06, "OK"), (0.97, "UNDECIDED")])
def test_a_ratio_is_judged_by_what_it_was(factor: float, verdict: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = [1.0, 1.001, 0.999, 1.0]
    outcomes([before], monkeypatch)
    _, record = beside([], recording=True)
    outcomes([[v / factor for v in before]], monkeypatch)  # the anchor's speed over the model's
    found, _ = beside([record])
    assert found.verdict == verdict
    assert found.cells["recorded"] == "1.000"


def test_another_machine_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes([EVEN], monkeypatch)
    _, record = beside([], recording=True)
    found, _ = beside([replace(record, machine="there")])
    assert (found.verdict, found.reason) == ("INVALID", "no recorded ratio to compare: machine here against there")


ANCHORED = ("--speed", "--models", "moganet_xt", "--resolutions", "64", "--batch-size", "2", "--threads", "1")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Record]:
    """A copy of the packages where a ratio is recorded for this machine."""
    folder = copy_with(None, tmp_path_factory.mktemp("copy"))
    environment = collect("cpu", 1)
    record = replace(speed.planned(SIDE, ANCHOR), value=1.5, samples=(1.5, 1.5), machine=environment["machine"])
    store.save([record], environment, folder / "results")
    return folder, record


def test_another_batch_is_not_compared_and_nothing_is_measured(recorded: tuple[Path, Record]) -> None:
    folder, _ = recorded
    done = gate(folder, *ANCHORED, "--batch-size", "4", "--margin", "0.03")
    assert done.returncode == 2
    assert "INVALID" in done.stdout
    assert "resolution" not in done.stdout
    assert "batch 4 against 2" in done.stdout


def test_a_machine_without_records_is_refused_with_the_mend(recorded: tuple[Path, Record], tmp_path: Path) -> None:
    folder, record = recorded
    there = tmp_path / "there"
    store.append(there / "records.csv", [replace(record, machine="there")])
    for arguments, mend in (((*ANCHORED, "--margin", "0.03"), "--record"), (ANCHORED, "bench.calibrate")):
        done = gate(folder, *arguments, "--results", str(tmp_path))
        assert done.returncode == 2
        assert mend in done.stderr
        assert "machines recorded: there" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1 + ("not calibrated" in done.stderr)


def test_the_calibration_is_that_of_the_results_that_are_given(recorded: tuple[Path, Record], tmp_path: Path) -> None:
    folder, record = recorded
    spread, visible = (
        replace(record, metric=metric, value=0.01, unit="fraction", against="", samples=(), time="2026-01-02")
        for metric in (calibration.SPREAD, calibration.VISIBLE)
    )
    store.append(tmp_path / record.machine / store.RECORDS, [spread, visible])
    done = gate(folder, *ANCHORED, "--results", str(tmp_path))
    assert done.returncode == 2
    assert "Calibration of 2026-01-02" in done.stderr
    assert "no recorded ratio to compare" in done.stdout


def test_the_verdicts_that_the_documentation_tells_of_the_kept_trials() -> None:
    (kept,) = (REPOSITORY / "results").glob("*/trials/convnext_t.csv")
    text = (REPOSITORY / "docs" / "gates.md").read_text(encoding="utf-8")
    lines = trials.judged(store.read(kept))
    for name, line in zip(("a model against itself", "5 % slower"), lines, strict=True):
        counts = {verdict: n for n, verdict in (part.split() for part in line.partition(": ")[2].split(", "))}
        row = " | ".join(counts.get(verdict, "0") for verdict in ("OK", "UNDECIDED", "REGRESSION", "INVALID"))
        assert f"| {name} | {row} |" in text
