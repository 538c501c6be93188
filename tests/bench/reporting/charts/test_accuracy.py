"""The Pareto front, the charts of top-1 and cost, and the figure for several machines."""

from __future__ import annotations

from pathlib import Path

from bench.reporting.charts import accuracy
from bench.reporting.data import gather
from bench.reporting.readme import caption
from tests.bench.reporting.made_records import MACHINES, cost, kept, timed


def points(*figures: tuple[float, float]) -> list[dict[str, object]]:
    return [{"value": value, "top1": top1, "larger": False} for value, top1 in figures]


def test_the_front_has_what_no_other_point_beats() -> None:
    some = points((1, 80), (2, 79), (3, 82), (3, 81), (4, 82), (5, 84))
    assert [(p["value"], p["top1"]) for p in accuracy.front(some, "macs")] == [(1, 80), (3, 82), (5, 84)]
    assert [p["value"] for p in accuracy.front(points((1, 85), (2, 84), (3, 86)), "throughput")] == [3]
    assert [p["value"] for p in accuracy.front(points((1, 85), (2, 84), (3, 80)), "throughput")] == [3, 2, 1]


def test_weights_of_more_images_are_not_on_the_front() -> None:
    one, other = points((1, 80), (2, 90))
    assert accuracy.front([one, {**other, "larger": True}], "macs") == [one]


def test_two_machines_have_a_panel_each(tmp_path: Path) -> None:
    made = cost()
    for i, machine in enumerate(MACHINES):
        for model, speed in (("overlock_t", 12.5), ("convnext_b", 7.5), ("convnext_t", 15.0)):
            made.append(timed(model, "throughput", speed * (i + 1), machine=machine))
    report = gather(kept(tmp_path / "results", made))
    spec = accuracy.figure(report)
    assert spec is not None
    counted, beside = spec["vconcat"]
    timed_panels = beside["concat"]
    assert counted["width"] > 2 * timed_panels[0]["width"], "no place is left empty"
    assert counted["encoding"]["x"]["title"] == "MACs (G)"
    assert [panel["title"] for panel in timed_panels] == list(MACHINES)
    assert all("batch 4" in panel["encoding"]["x"]["title"] for panel in timed_panels)
    assert all("Published" in panel["encoding"]["y"]["title"] for panel in (counted, *timed_panels))
    assert all(machine in caption(report) for machine in MACHINES)
    assert "as published" in caption(report)


def test_captions_say_that_top1_is_published(tmp_path: Path) -> None:
    report = gather(kept(tmp_path / "results", [*cost(), timed("overlock_t", "throughput", 12.5)]))
    for chart in accuracy.charts(report):
        assert "Top-1 is as published, not measured here" in chart.caption
        assert "Published" in chart.spec["encoding"]["y"]["title"]
