"""`python -m bench.claims`: exit codes, formats, input that is refused."""

from __future__ import annotations

import importlib
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from bench import claims
from bench.cli import BadInput
from bench.evidence.commands import command
from tests.bench.evidence.judged import ALL, BY_ID, speeds
from tests.bench.reporting.made_records import COST, cost, kept, record, timed


def test_every_command_is_one_that_its_parser_takes() -> None:
    seen = set()
    for statement in ALL:
        if line := command(statement):
            python, _, module, *args = shlex.split(line)
            assert python == "python"
            importlib.import_module(module).parser().parse_args(args)
            seen.add(module)
    assert {"bench.compare", "bench.claims", "bench.top1", "bench.coco", "bench.ade20k"} == seen


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "bench.claims", *args], capture_output=True, text=True)


def test_no_records(tmp_path: Path) -> None:
    done = run("--results", str(tmp_path))
    assert done.returncode == 2
    assert "NOT MEASURED" in done.stdout
    assert done.stderr.count("\n") == 1
    assert "--measure" in done.stderr


def test_exit_codes_and_formats(tmp_path: Path) -> None:
    results = kept(tmp_path / "results", cost())
    assert claims.main(["--results", str(results), "--only", "one-third"]) == 0
    wrong = [record("moganet_xt", "params", 2_956_066)]
    refuting = kept(tmp_path / "more", wrong)
    asked = ["--results", str(refuting), "--models", "moganet_xt"]
    assert [claims.main(asked), claims.main([*asked, "--check"])] == [0, 1]
    top1 = [
        timed("overlock_t", "top1", 83.85, weights="ab" * 32),
        timed("convnext_b", "top1", 83.84, weights="cd" * 32),
    ]
    asked = ["--results", str(kept(tmp_path / "unsure", top1)), "--only", "t-over-convnext-b"]
    assert [claims.main(asked), claims.main([*asked, "--check"])] == [0, 3]
    slower = ["--results", str(kept(tmp_path / "slower", speeds(0.5))), "--only", "faster-overlock_t-convnext_b"]
    assert claims.main([*slower, "--check"]) == 0, "a question's answer is nobody's failure"
    output = tmp_path / "claims.json"
    claims.main(["--results", str(results), "--output", str(output)])
    rows = {row["id"]: row for row in json.loads(output.read_text())}
    assert rows.keys() == BY_ID.keys()
    row = rows["one-third-params"]
    assert row["verdict"] == "REPRODUCED"
    assert row["measured"] == pytest.approx(COST["overlock_t"][0] / COST["convnext_b"][0])
    assert "results/machine-a/records.csv:" in row["evidence"]


BAD = [
    (["--only", "no such words"], "no statement speaks of that"),
    (["--models", "resnet50"], "no statement speaks of that"),
    (["--records", "nothing.csv"], "nothing.csv"),
    (["--measure", "speed"], "--measure"),
    (["--measure", "--records", "x.csv"], "--records"),
]


@pytest.mark.parametrize(("args", "said"), BAD)
def test_bad_input(args: list[str], said: str) -> None:
    with pytest.raises((BadInput, SystemExit)) as caught:
        claims.main(args)
    if isinstance(caught.value, SystemExit):
        assert caught.value.code == 2
    else:
        assert said in str(caught.value)
