"""Trials of the gate: what its runs may say instead of a verdict, and files that are others' or hold no trial."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from bench.cli import BadInput
from bench.records import store
from bench.records.record import Record
from bench.validation import gate_trials, trials

ROW = {"what": "convnext_t", "verdict": "OK", "speed": "1.0", "95 % interval": "0.9 to 1.1"}
HEADING = ",".join(gate_trials.COLUMNS) + "\n"


def saying(folder: Path, said: bytes) -> str:
    """A command that prints this, whatever it is to start."""
    (folder / "said").write_bytes(said)
    script = folder / "gate"
    script.write_text(f"#!/bin/sh\ncat {folder}/said\n")
    script.chmod(stat.S_IRWXU)
    return str(script)


def test_verdicts_are_kept_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, under = tmp_path / "g.csv", saying(tmp_path, json.dumps({"rows": [ROW]}).encode())
    for _ in range(2):
        assert gate_trials.main(["--runs", "2", "--output", str(output), "--under", under]) == 0
    assert capsys.readouterr().out == "2 OK\n" * 2
    lines = output.read_text().splitlines(keepends=True)
    assert (lines[0], len(lines)) == (HEADING, 5)


@pytest.mark.parametrize(
    "said", [b"", b"\xff\xfe", b"[1]", b"{}", b'{"rows": 3}', b'{"rows": [3]}', b'{"rows": [{}]}', b'{"rows": []}']
)
def test_a_gate_without_a_verdict_is_bad_input(said: bytes, tmp_path: Path) -> None:
    output = tmp_path / "g.csv"
    with pytest.raises(BadInput, match="printed no verdict: it gave no reason either"):
        gate_trials.main(["--output", str(output), "--under", saying(tmp_path, said)])
    assert not output.exists()


@pytest.mark.parametrize(
    "content",
    [b"a,b\n1,2\n", b"\xff\x00", f"{HEADING}2026,cut".encode(), f"{HEADING}1,2\n".encode(), b"x," * 200_000],
)
@pytest.mark.parametrize("linked", [False, True])
def test_a_file_of_others_is_refused_before_a_run(content: bytes, linked: bool, tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_bytes(content)
    output = tmp_path / "link.csv" if linked else path
    if linked:
        output.symlink_to(path)
    with pytest.raises(BadInput, match=r"(other|link)\.csv.*give --output another file"):
        gate_trials.main(["--output", str(output), "--under", "nothing of this name"])
    assert path.read_bytes() == content


@pytest.mark.parametrize("command", [gate_trials.main, trials.main])
def test_what_cannot_be_written_or_started_is_refused_before_a_run(
    command: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(command)
    for there in ("/dev/full", str(tmp_path), str(tmp_path / "no" / ("x" * 300))):
        with pytest.raises(BadInput):
            command(["--output", there, "--under", "nothing of this name"])
    with pytest.raises(SystemExit) as stopped:
        command(["--output", str(tmp_path / "g.csv"), "--under", 'an "open quote'])
    assert stopped.value.code == 2
    assert "--under: 'an \"open quote' is no command line" in capsys.readouterr().err


def test_records_without_a_trial_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    record = Record(
        model="convnext_t", form="deploy", metric="throughput", value=2.0, unit="images/s", resolution="224"
    )
    store.append(path, [record])
    with pytest.raises(BadInput, match=r"r\.csv has no ratio of convnext_t_twin"):
        gate_trials.main(["--judge", str(path)])
    with pytest.raises(BadInput, match=r"r\.csv has no ratio of convnext_t_twin"):
        trials.main(["--summary", "--output", str(path)])


def test_a_trial_that_kept_nothing_says_so(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("a,b\n1,2\n")
    with pytest.raises(BadInput, match=r"r\.csv: its first line names no column"):
        trials.main(["--output", str(tmp_path / "r.csv"), "--under", "nothing of this name"])
    with pytest.raises(BadInput, match="a run failed"):
        trials.main(["--output", str(tmp_path / "new.csv"), "--under", saying(tmp_path, b"\xff")])


def test_a_ratio_without_an_interval_is_told() -> None:
    ratio = Record(model=trials.TWIN, form="deploy", metric="throughput_ratio", value=1.5, unit="", resolution="224")
    assert trials._in_words(ratio) == "convnext_t_twin 1.500 [none, none]"
