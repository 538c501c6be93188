"""What runs on GitHub: one comment that is updated, the steps of the composite action, and actions that are pinned."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
YAML = [*sorted((ROOT / ".github").rglob("*.yml")), ROOT / "action.yml"]

GH = """#!{python}
import json, os, sys
folder = os.environ["GH_FOLDER"]
body = json.load(sys.stdin)["body"] if "--input" in sys.argv else None
with open(folder + "/calls.jsonl", "a") as calls:
    calls.write(json.dumps([sys.argv[1:], body]) + "\\n")
path = sys.argv[2].removeprefix("repos/o/r/")
print(open(folder + "/" + path.replace("/", "-") + ".json").read() if body is None else "{{}}")
"""


class GitHub:
    """A `gh` that answers from files and keeps what it was asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        (folder / "verdict").mkdir()
        gh = folder / "bin" / "gh"
        gh.write_text(GH.format(python=sys.executable))
        gh.chmod(0o755)
        self.answer("pulls", [{"number": 7, "head": {"sha": "new"}}])
        self.answer("issues/7/comments", [])

    def answer(self, path: str, what: Any) -> None:
        (self.folder / f"{path.replace('/', '-')}.json").write_text(json.dumps(what))

    def comment(self, *args: str, **verdicts: str) -> list[Any]:
        """Run the script; returns what it sent."""
        for name, text in verdicts.items():
            (self.folder / "verdict" / f"gate-{name}.md").write_text(text)
        path = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        env = {**os.environ, "PATH": path, "GH_REPO": "o/r", "GH_FOLDER": str(self.folder)}
        command = [sys.executable, str(ROOT / ".github" / "comment.py"), str(self.folder / "verdict"), *args]
        subprocess.run(command, env=env, check=True, capture_output=True)
        calls = self.folder / "calls.jsonl"
        return [json.loads(line) for line in calls.read_text().splitlines()] if calls.exists() else []


@pytest.fixture
def github(tmp_path: Path) -> GitHub:
    return GitHub(tmp_path)


HEAD = ("--head", "someone:branch", "--sha", "new")


def test_the_request_is_the_one_whose_head_was_judged(github: GitHub) -> None:
    (asked, _), _, (posted, body) = github.comment(*HEAD, exact="# Exact gate: OK")
    assert asked[1:] == ["repos/o/r/pulls", "--method", "GET", "-f", "state=open", "-f", "head=someone:branch"]
    assert posted[1:4] == ["repos/o/r/issues/7/comments", "--method", "POST"]
    assert "# Exact gate: OK" in body


def test_a_head_that_has_moved_on_gets_no_comment(github: GitHub) -> None:
    github.answer("pulls", [{"number": 7, "head": {"sha": "newer"}}])
    assert len(github.comment(*HEAD, exact="# Exact gate: OK")) == 1


def test_one_comment_is_updated_section_by_section(github: GitHub) -> None:
    (_, body) = github.comment(*HEAD, exact="exact one", speed="speed one")[-1]
    theirs = {"id": 1, "user": {"login": "someone"}, "body": "<!-- bench.gate -->"}
    ours = {"id": 2, "user": {"login": "github-actions[bot]"}, "body": body}
    github.answer("issues/7/comments", [theirs, ours])
    (github.folder / "verdict" / "gate-speed.md").unlink()
    sent, body = github.comment(*HEAD, exact="exact two")[-1]
    assert sent[1:4] == ["repos/o/r/issues/comments/2", "--method", "PATCH"]
    assert "exact two" in body
    assert "exact one" not in body
    assert "speed one" in body


def test_what_the_request_wrote_is_shown_as_text(github: GitHub) -> None:
    (_, body) = github.comment(*HEAD, exact="ask @everybody <!-- /exact --><!-- speed -->" + "x" * 90_000)[-1]
    assert "@everybody" not in body
    assert body.count("<!-- ") == 3
    assert len(body) < 65_536


def test_nothing_judged_says_nothing(github: GitHub) -> None:
    assert github.comment(*HEAD, exact=" \n") == []


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.name)
def test_actions_of_others_are_pinned(path: Path) -> None:
    used = re.findall(r"uses: (\S+)(.*)", path.read_text())
    loose = [name for name, comment in used if not name.startswith("./") and not pinned(name, comment)]
    assert loose == []


def pinned(name: str, comment: str) -> bool:
    return bool(re.search(r"@[0-9a-f]{40}$", name) and re.match(r" # v\d", comment))


def steps_of_the_action() -> dict[str, str]:
    """The scripts of action.yml, by name."""
    yaml = pytest.importorskip("yaml")
    steps = yaml.safe_load((ROOT / "action.yml").read_text())["runs"]["steps"]
    return {step["name"]: step["run"] for step in steps}


@pytest.mark.parametrize(
    ("inputs", "arguments"),
    [
        ({"TIER": "exact"}, ["--exact"]),
        ({"TIER": "exact", "MODELS": "a_* b", "ARGUMENTS": "--all-rows"},
         ["--all-rows", "--models", "a_*", "b", "--exact"]),
        ({"TIER": "speed", "BASE": "abc"}, ["--speed", "--base", "abc", "--margin", "0.06"]),
    ],
)  # fmt: skip
def test_the_action_runs_the_gate_that_is_asked_for(
    inputs: dict[str, str], arguments: list[str], tmp_path: Path
) -> None:
    command = tmp_path / "overlock-bench"
    command.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > asked\nfor last; do :; done\necho verdict > "$last"\nexit 1\n')
    command.chmod(0o755)
    own = {"RUNNER_TEMP": str(tmp_path), "GITHUB_OUTPUT": str(tmp_path / "output")}
    own |= {"GITHUB_STEP_SUMMARY": str(tmp_path / "summary"), "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    usual = {"MODELS": "", "BASE": "", "MARGIN": "0.06", "ARGUMENTS": ""}
    env = {**os.environ, **own, **usual, **inputs}
    script = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", steps_of_the_action()["Gate"]]
    done = subprocess.run(script, cwd=tmp_path, env=env, check=False)
    assert done.returncode == 1
    verdict = str(tmp_path / f"gate-{inputs['TIER']}.md")
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked == ["gate", *arguments, "--format", "markdown", "--output", verdict]
    assert (tmp_path / "summary").read_text() == "verdict\n"
    assert (tmp_path / "output").read_text() == f"verdict={verdict}\n"
