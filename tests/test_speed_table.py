"""The speed table: what it measures runs, and what it prints follows from what it measured. No times are asserted."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from tests.benchmarks import speed_table
from tests.benchmarks.comparisons import GROUPS, Ratio, sides_of
from tests.benchmarks.sides import Side

SMALL = {"overlock": "overlock_xt", "convnext": "convnext_atto", "aggregation": "aggregation"}


def small(side: Side) -> Side:
    return replace(side, model=SMALL[side.model.split("_")[0]], height=64, width=64, batch=2)


@pytest.mark.parametrize(
    "side", dict.fromkeys(small(side) for rows in GROUPS.values() for side in sides_of(rows)), ids=str
)
def test_every_kind_of_side_runs(side: Side) -> None:
    run = side.prepare()
    first, second = torch.as_tensor(run()).clone(), torch.as_tensor(run())
    assert first.isfinite().all()
    assert second.isfinite().all()
    if side.model != "aggregation":
        assert not torch.equal(first, second)  # another input, or another step


def test_a_row_divides_within_rounds() -> None:
    side, slow, fast = Side("overlock_t", "deploy"), Side("convnext_b", layout="NCHW"), Side("convnext_b")
    times = {side: [0.5, 0.25, 0.5], slow: [9.0, 9.0, 0.1], fast: [1.0, 1.0, 4.0]}
    found = {s: [{"seconds": t, "memory": 3 << 20} for t in ts] for s, ts in times.items()}
    line = speed_table.row(Ratio("a / b", side, (slow, fast)), found, in_megabytes=True)
    assert (line["ratio"], line["min..max"], line["rounds"]) == ("4.00", "2.00..8.00", "3")
    assert line["over"] == "convnext_b train, channels_last"
    assert line["ms"] == "500.00 (16.00 images/s)"
    assert line["MiB above the loaded model"] == "3 / 3"


def test_one_round(capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["--rounds", "1", "--only", "aggregation", "--seconds", "0", "--threads", "1", "--format", "json"]
    assert speed_table.main(arguments) == 0
    out, _ = capfd.readouterr()
    printed = json.loads(out)
    assert "1 threads" in printed["machine"]
    (line,) = printed["rows"]
    assert float(line["ratio"]) > 0
    assert line["rounds"] == "1 (1 only)"


def test_a_side_that_fails_is_said(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    missing = (Ratio("a / b", Side("no_such_model"), (Side("convnext_b"),)),)
    monkeypatch.setitem(GROUPS, "aggregation", missing)
    assert speed_table.main(["--rounds", "1", "--only", "aggregation"]) == 2
    out, err = capfd.readouterr()
    assert not out
    assert "not measured: aggregation: no_such_model train, channels_last: " in err
    assert "Unknown model (no_such_model)" in err


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["--only", "nothing"], ["--threads", "0"]])
def test_bad_arguments(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        speed_table.main(arguments)
    assert ended.value.code == 2
    assert arguments[0] in capfd.readouterr().err
