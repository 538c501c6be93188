"""Which measurements a sweep is made of: pure arithmetic, nothing is measured."""

from __future__ import annotations

import pytest

from bench.engine.plan import Plan
from bench.engine.request import Settings
from bench.engine.sweep import TOGETHER, Sweep
from bench.models import MODELS


def sweep(*names: str, baseline: str, form: str = "deploy", **kwargs: object) -> Sweep:
    settings = Settings(device="cpu", threads=1)
    fields = {"resolutions": [(224, 224)], "metrics": ["throughput"], "settings": settings, **kwargs}
    entries = [MODELS[name] for name in names]
    return Sweep(entries=entries, form=form, baseline=baseline, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["deploy", "both"])
def test_every_side_is_timed_beside_the_baseline(form: str) -> None:
    run = sweep(*MODELS, baseline="overlock_t", form=form)
    groups = run.groups("throughput")
    base = [row for row in run.rows() if row[0] == "overlock_t"]
    assert all(group[-len(base) :] == base for group in groups)
    assert all(len(group) <= TOGETHER for group in groups)
    others = [row for group in groups for row in group[: -len(base)]]
    assert sorted([*others, *base]) == sorted(run.rows()), "each side once"


def test_a_model_alone_is_its_own_baseline() -> None:
    assert sweep("overlock_t", baseline="overlock_t").groups("throughput") == [[("overlock_t", "deploy")]]


@pytest.mark.parametrize("form", ["deploy", "train", "both"])
def test_what_is_trained_is_the_training_form(form: str) -> None:
    trained = [("overlock_t", "train"), ("convnext_t", "deploy")]  # the one form that it has
    alone = sweep("overlock_t", "convnext_t", baseline="convnext_t", form=form, metrics=["training"])
    assert alone.rows() == alone.rows("training") == trained
    assert alone.groups("training") == [trained]
    both = sweep("overlock_t", "convnext_t", baseline="convnext_t", form=form, metrics=["training", "throughput"])
    assert both.rows("training") == trained
    assert set(both.rows()) == {*trained, *both.rows("throughput")}


def test_a_sweep_visits_every_point_and_latency_once_a_size_and_dtype() -> None:
    run = sweep(
        "overlock_t",
        "convnext_t",
        baseline="convnext_t",
        resolutions=[(224, 224), (384, 384)],
        batches=[1, 8],
        dtypes=["float32", "bfloat16"],
        metrics=["params", "throughput", "latency", "memory", "largest_batch"],
        plan=Plan(rounds=3),
    )
    points = run.points()
    assert len(points) == 8
    assert [run.timed(p) for p in points[:3]] == [["throughput", "latency"], ["throughput", "latency"], ["throughput"]]
    assert [run.passes(p) for p in points[1:3]] == [["memory", "largest_batch"], ["memory"]]
    numbers = {kind: number for kind, (number, _) in run.steps().items()}
    timed, passes = {"throughput": 8 * 3, "latency": 4 * 3}, {"memory": 8 * 2, "largest_batch": 4 * 2}
    assert numbers == {"check": 1, "cost": 2 * 2, **timed, **passes}


def test_rounds_that_end_by_time_are_one_step_of_that_time() -> None:
    run = sweep("overlock_t", baseline="overlock_t", metrics=["throughput"], plan=Plan(precision=0.05, seconds=40.0))
    assert run.steps()["throughput"] == (1, 40.0)
