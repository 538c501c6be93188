"""Signals: SIGTERM and SIGHUP end a command as Ctrl-C does, and temporary folders go, at once or with the next one."""

from __future__ import annotations

import importlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from bench import cli
from bench.gates import worktrees
from bench.paths import PACKAGE, REPOSITORY
from bench.scratch import LOCK, LOCKED, scratch

WORKS = """
import sys, time
from pathlib import Path
from bench import cli
from bench.gates.worktrees import checked_out, commit_of

def main():
    repository = Path(sys.argv[1])
    with checked_out(commit_of("HEAD", repository), repository=repository):
        print("made", flush=True)
        time.sleep(60)

cli.run("gate", main)
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """One commit of one file."""
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "file").write_text("one")
    who = ("-c", "user.name=t", "-c", "user.email=t@t")
    for args in (("init", "-q", "-b", "main"), ("add", "."), (*who, "commit", "-qm", "one")):
        subprocess.run(["git", "-C", str(folder), *args], check=True)
    return folder


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made, by this process too."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def heed_signals() -> None:
    """nohup may be above us, or a shell's `&`: what they ignore is inherited."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


def killed_by(number: int, repository: Path) -> int:
    """The exit code of a command that gets a signal while it has a worktree."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORKS, str(repository)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        preexec_fn=heed_signals,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "made\n"
    process.send_signal(number)
    return process.wait(30)


def worktrees_of(repository: Path) -> int:
    return worktrees.git("worktree", "list", repository=repository).count("\n") + 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_stopped_command_leaves_nothing(number: int, repository: Path, temporary: Path) -> None:
    assert killed_by(number, repository) == 128 + number
    assert not [*temporary.iterdir()]
    assert worktrees_of(repository) == 1


def test_the_next_command_removes_what_a_killed_one_left(repository: Path, temporary: Path) -> None:
    assert killed_by(signal.SIGKILL, repository) == -signal.SIGKILL
    assert len([*temporary.iterdir()]) == 1
    assert worktrees_of(repository) == 2
    with worktrees.checked_out(worktrees.commit_of("HEAD", repository), repository=repository) as (root,):
        assert [*temporary.iterdir()] == [root.parent]
    assert not [*temporary.iterdir()]
    assert worktrees_of(repository) == 1


def test_a_worktree_that_git_was_killed_at_is_forgotten_and_the_users_stay(repository: Path, temporary: Path) -> None:
    gone, own = temporary / "bench-gate-gone" / "0", temporary / "mine" / "0"
    for root in (gone, own):
        worktrees.git("worktree", "add", "--detach", "--quiet", "--lock", str(root), repository=repository)
        for path in sorted(root.rglob("*"), reverse=True):
            path.unlink()
        root.rmdir()  # the user's is on a disk that is not mounted now
        root.parent.rmdir()
    worktrees.forget(repository)
    assert worktrees_of(repository) == 2
    assert "mine" in worktrees.git("worktree", "list", repository=repository)


def test_folders_in_use_and_those_of_others_stay(temporary: Path) -> None:
    used, dead, foreign = (temporary / f"bench-{name}-1" for name in ("used", "dead", "foreign"))
    for folder in (used, dead, foreign):
        folder.mkdir()
    for folder in (used, dead):
        (folder / LOCKED).touch()
    with FileLock(used / LOCK), scratch("own") as own:
        assert {*temporary.iterdir()} == {used, foreign, own}
    assert {*temporary.iterdir()} == {used, foreign}


def test_a_second_signal_does_not_cut_the_cleaning_short() -> None:
    cleaned = []

    def main() -> int:
        try:
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(10)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            cleaned.append(True)
        return cli.OK

    assert exit_code(main) == 128 + signal.SIGHUP
    assert cleaned


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_later_signal_ends_what_the_first_did_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python drops what is raised while an object is deleted, and a library may catch it."""
    monkeypatch.setattr(cli, "CLEANING_SECONDS", 0.05)

    class Deleted:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)

    def main() -> int:
        Deleted()
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
        return cli.OK

    assert exit_code(main) == 128 + signal.SIGTERM


def exit_code(main: Callable[[], int]) -> object:
    """Of a command, run here; the handlers of signals are as before."""
    before = [signal.signal(number, signal.SIG_DFL) for number in cli.STOPPING]
    try:
        with pytest.raises(SystemExit) as ended:
            cli.run("test", main)
    finally:
        for number, handler in zip(cli.STOPPING, before, strict=True):
            signal.signal(number, handler)
    return ended.value.code


@pytest.mark.parametrize("text", ["", "a" * 300, "folder/" + "9" * 5000])
def test_a_path_that_no_system_has_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    from bench import ade20k, report, train_coco

    for command in (
        lambda: report.parser().parse_args(["--results", text]),
        lambda: ade20k.parser().parse_args(["--data", text, "--models", "overlock_t", "--weights", "random"]),
        lambda: ade20k.parser().parse_args(["--split", text, "--data", ".", "--models", "overlock_t"]),
        lambda: train_coco.parser().parse_args(["--split", text, "--data", ".", "--model", "overlock_t"]),
    ):
        with pytest.raises(SystemExit) as ended:
            command()
        assert ended.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "empty path" in line or "File name too long" in line
        assert len(line) < 200


COMMANDS = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): ended.group(1)
    for path in sorted(PACKAGE.rglob("*.py"))
    if path != PACKAGE / "__main__.py"
    and (ended := re.search(r'^    cli\.run\("(.*)", main\)$', path.read_text(), re.M))
}
"""Module of a command -> what it heads its errors with."""


@pytest.mark.parametrize("name", COMMANDS)
def test_errors_are_headed_by_the_command_that_was_called(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Those of the parser, and those that `cli.run` prints."""
    assert COMMANDS[name] == name
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"bench.{name}").main(["--no-such-option"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"bench.{name}: error: ")


ODD_PLACES = {
    "ASCII": ("PYTHONIOENCODING=ascii exec {run}", 0, "\\xa7\n", ""),
    "no stdout": ("exec {run} >&-", 0, "", ""),
    "no folder": ("mkdir gone; cd gone; rmdir ../gone; exec {run}", 2, "", f"bench.x: error: {cli.GONE}\n"),
}


@pytest.mark.parametrize("case", ODD_PLACES)
def test_odd_places_to_run_in(case: str, tmp_path: Path) -> None:
    script, code, out, err = ODD_PLACES[case]
    program = "from bench import cli; cli.run('x', lambda: print('\\xa7') or 0)"
    command = script.format(run=f'{sys.executable} -c "{program}"')
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (code, out, err)
