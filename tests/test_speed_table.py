"""The speed table: what it measures runs, and what it prints follows from what was measured. No times are asserted."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from bench.engine import interleaved, speed, subject
from bench.engine.check import import_modules
from bench.engine.outcome import Outcome, Replicate
from bench.engine.plan import DEFAULT
from bench.engine.request import Request, Settings
from bench.metrics import TRAINING
from tests.benchmarks import speed_table
from tests.benchmarks.speed_table import GROUPS, Group

SMALL = {"overlock": "overlock_xt", "convnext": "convnext_atto"}


def small(side: Request) -> Request:
    """The same kind of side, of a model and images that take no time."""
    family = side.model.split("_")[0]
    if family == "aggregation":
        return side
    settings = replace(side.settings, batch=2)
    return replace(side, model=SMALL[family], resolution=(64, 64), settings=settings, label="")


CASES = {f"{group.kind} {small(side)}": (small(side), group.kind) for group in GROUPS.values() for side in group.sides}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: f"{case[1]} {case[0].name} {case[0].settings.dtype}")
def test_every_kind_of_side_runs(case: tuple[Request, str]) -> None:
    side, kind = case
    import_modules(side.settings.imports)
    ready = subject.prepare(replace(side, kind=kind))
    work = speed.Training(ready) if kind == TRAINING else speed.Inference(ready)
    first, second = torch.as_tensor(work.call(0)).clone(), torch.as_tensor(work.call(1))
    assert first.isfinite().all()
    assert second.isfinite().all()
    assert not torch.equal(first, second)  # another input, or another step
    if side.settings.backend != "auto":
        assert subject.check(ready).backend == side.settings.backend


def outcome_of(seconds: dict[str, list[float]]) -> Outcome:
    """An outcome of undisturbed rounds: name of a side -> seconds of a call in each round, batch 8."""

    def replicate(value: float) -> Replicate:
        warm = {"batch": 8, "problems": [], "backend": "", "steady": True, "limit": 1.0, "weights": "random:0"}
        return Replicate(warm, blocks=[value], last={"canary": {"moved": 0.0, "work": "copy"}})

    settings = Settings(batch=8, layout="channels_first")
    one = Request(model="", form="deploy", resolution=(224, 224), settings=settings)
    sides = [replace(one, model=name, label=name) for name in seconds]
    replicates: list[list[Replicate | None]] = [[replicate(value) for value in values] for values in seconds.values()]
    return Outcome(sides, DEFAULT, replicates, [[] for _ in sides], [False] * len(sides))


def test_a_row_is_of_the_sides_that_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = outcome_of({"a": [0.5, 0.5, 0.5], "b": [4.0, 4.0, 4.0], "c": [1.0, 1.0, 1.0]})
    monkeypatch.setattr(interleaved, "measure", lambda *_: iter([outcome]))
    monkeypatch.setattr(speed_table, "memory", lambda sides: {side.name: f"of {side.name}" for side in sides})
    a, b, c = outcome.sides
    first, second = speed_table.measured("group", Group(((a, b), (a, c)), memory=True), DEFAULT, 1)
    assert (first["side"], first["over"], first["ratio"], first["rounds"]) == ("a", "b (channels_first)", "8.00", "3")
    assert (second["over"], second["ratio"], second["95 %"]) == ("c (channels_first)", "2.00", "2.00 to 2.00")
    assert (second["images/s"], second["MiB of a call"]) == ("16.00 / 8.00", "of a / of c")
    assert not first["doubts"]


def test_one_round(capfd: pytest.CaptureFixture[str]) -> None:
    assert speed_table.main(["--rounds", "1", "--only", "aggregation", "--threads", "1", "--format", "json"]) == 0
    out, _ = capfd.readouterr()
    printed = json.loads(out)
    assert "1 threads" in printed["machine"]
    (line,) = printed["rows"]
    assert float(line["ratio"]) > 0
    assert line["rounds"] == "1"


def test_a_side_that_fails_is_said(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    imports = {"imports": ("tests.bench.planted_models",)}
    starved, well = (speed_table.model(name, size=(64, 64), **imports) for name in ("tiny_starved", "tiny"))
    monkeypatch.setitem(GROUPS, "aggregation", Group(((starved, well),)))
    assert speed_table.main(["--rounds", "1", "--only", "aggregation", "--format", "json"]) == 2
    (line,) = json.loads(capfd.readouterr().out)["rows"]
    assert not line["ratio"]
    assert "OOM" in line["doubts"]


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["--only", "nothing"], ["--threads", "0"]])
def test_bad_arguments(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        speed_table.main(arguments)
    assert ended.value.code == 2
    assert arguments[0] in capfd.readouterr().err
