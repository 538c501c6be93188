"""Which measurements a sweep is made of: pure arithmetic, nothing is measured."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.engine.campaign import TOGETHER, Campaign
from bench.engine.job import Settings
from bench.engine.side import Plan
from bench.models import MODELS
from bench.records.record import Record


def campaign(*names: str, baseline: str, form: str = "deploy", **kwargs: object) -> Campaign:
    settings = Settings(device="cpu", threads=1)
    fields = {"resolutions": [(224, 224)], "metrics": ["throughput"], "settings": settings, **kwargs}
    return Campaign([MODELS[name] for name in names], form=form, baseline=baseline, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["deploy", "both"])
def test_every_side_is_timed_beside_the_baseline(form: str) -> None:
    run = campaign(*MODELS, baseline="overlock_t", form=form)
    groups = run._groups()
    base = [row for row in run.rows() if row[0] == "overlock_t"]
    assert all(group[-len(base) :] == base for group in groups)
    assert all(len(group) <= TOGETHER for group in groups)
    others = [row for group in groups for row in group[: -len(base)]]
    assert sorted([*others, *base]) == sorted(run.rows()), "each side once"


def test_a_model_alone_is_its_own_baseline() -> None:
    assert campaign("overlock_t", baseline="overlock_t")._groups() == [[("overlock_t", "deploy")]]


def test_a_sweep_visits_every_point_and_latency_once_a_size_and_dtype() -> None:
    run = campaign(
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
    assert [run._kinds(p) for p in points[:3]] == [["throughput", "latency"], ["throughput", "latency"], ["throughput"]]
    assert [run._passes(p) for p in points[1:3]] == [["memory", "largest_batch"], ["memory"]]
    timed, passes, counted = (8 + 4) * 3, (8 + 4) * 2, 2 * 2
    assert run.steps() == timed + passes + counted


def test_what_is_known_is_only_of_this_code_and_these_conditions() -> None:
    run = campaign("overlock_t", baseline="overlock_t")
    run.environment = {"machine": "m", "commit": "c", "libraries": {"torch": "2"}}
    settings = replace(run.settings, batch=4, device="cpu")
    known = Record(
        model="overlock_t", form="deploy", metric="throughput", value=1.0, unit="images/s", resolution="224", batch=4,
        dtype="float32", compile="none", threads=1, device="cpu", machine="m", torch="2", commit="c",
    )  # fmt: skip

    def is_known(record: Record) -> bool:
        run.known = [record]
        return run._is_known(("overlock_t", "deploy"), (224, 224), "throughput", settings)

    assert is_known(known)
    others = [{"batch": 8}, {"dtype": "bfloat16"}, {"machine": "n"}, {"commit": "d"}, {"torch": "3"}, {"threads": 2}]
    assert not any(is_known(replace(known, **other)) for other in others)  # type: ignore[arg-type]
    assert not is_known(known.failed("killed by SIGKILL")), "what failed is tried again"
