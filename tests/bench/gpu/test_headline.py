"""The headline's order, and what is handed over when, with the engine's own rounds and simulated workers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.gpu.configurations import CONVNEXT, OVERLOCK
from bench.gpu.headline import OF_T, TASKS, Comparison, Task
from bench.gpu.parts import WARMED
from bench.metrics import THROUGHPUT
from tests.bench.gpu.tools import Heard, simulate

PAIR = Task(THROUGHPUT, OF_T, (OVERLOCK, CONVNEXT))


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).resolve().parents[3])


def ratios(part: Heard) -> list[dict[str, Any]]:
    return [row for rows in part.told("records") for row in rows if row["metric"] == "throughput_ratio"]


def test_two_graphs_are_compared_in_two_rounds_before_anything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, *_ = TASKS["headline"].configurations
    assert (first.model, first.compile) == ("overlock_t", "cudagraph")
    assert (second.model, second.compile) == ("convnext_b", "cudagraph")
    simulate(monkeypatch, tmp_path)
    part = Heard(tmp_path)
    Comparison(part, PAIR).run()
    blocks = part.told("block")
    assert [(b["side"], b["round"]) for b in blocks[:4]] == [
        (OVERLOCK.name, 1), (CONVNEXT.name, 1), (CONVNEXT.name, 1), (OVERLOCK.name, 1)
    ], "A B B A, and each block as it comes"  # fmt: skip
    assert [b["round"] for b in blocks] == [1] * 4 + [2] * 4
    kinds = ["records" if "records" in message else "block" for message in part.messages]
    assert kinds == ["block"] * 4 + ["records"] + ["block"] * 4 + ["records"], "records after every round"
    assert len({message["key"] for message in part.messages if "key" in message}) == 1, "the later replace the earlier"
    assert [row["n"] for row in ratios(part)] == [1, 2]
    assert ratios(part)[1]["valid"]
    moved = [row["noise"] for rows in part.told("records") for row in rows]
    assert moved == [None] * len(moved), "up to 4 %, as a card does that is capped in power"
    assert ratios(part)[1]["notes"][0] == f"{OF_T}: {OVERLOCK.name} against {CONVNEXT.name}"


def test_out_of_memory_of_one_side_leaves_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simulate(monkeypatch, tmp_path, "oom@headline:1", "oom@headline:2", "oom@headline:3")
    part = Heard(tmp_path)
    Comparison(part, PAIR).run()
    rows = {row["model"]: row for rows in part.told("records") for row in rows if row["metric"] == "throughput"}
    assert sorted(row["value"] is None for row in rows.values()) == [False, True]
    (starved,) = (row for row in rows.values() if row["value"] is None)
    assert starved["reasons"][0].startswith("OOM")


def test_what_finds_no_time_is_said_and_the_best_are_compared_in_rounds_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulate(monkeypatch, tmp_path)
    part = Heard(tmp_path)
    faster = OVERLOCK._replace(depthwise="triton")
    others = CONVNEXT._replace(compile="default"), OVERLOCK._replace(depthwise="winners")
    task = Task(THROUGHPUT, OF_T, (OVERLOCK, CONVNEXT, *others))
    (tmp_path / WARMED).write_text(json.dumps([OVERLOCK.name]))
    comparison = Comparison(part, task)
    comparison.rates[faster] = 1e9
    comparison.run()
    assert [row["notes"][0] for row in ratios(part)][-1] == f"{OF_T}: {faster.name} against {CONVNEXT.name}"
    dropped, compiled = part.told("dropped")
    assert compiled.startswith(CONVNEXT._replace(compile="default").name)
    assert "not compiled in time" in compiled
    assert "winners were not measured" in dropped
    late = Heard(tmp_path, seconds=0.0)
    Comparison(late, task).run()
    assert len(late.told("block")) == 4, "the first round is begun whatever time there is"
    assert any("round 2" in what and "no time" in what for what in late.told("dropped"))
