"""Only points of one model, one batch and equal conditions are joined."""

from __future__ import annotations

from pathlib import Path

from bench.reporting.charts import resolutions
from bench.reporting.data import gather
from tests.bench.reporting.charts.test_labels import panels
from tests.bench.reporting.made_records import cost, kept, timed


def test_a_line_is_of_one_batch(tmp_path: Path) -> None:
    made = cost()
    for resolution, batch in (("224", 4), ("384", 1), ("448", 1)):
        for model in ("overlock_t", "convnext_b"):
            made.append(timed(model, "throughput", 9e5 / int(resolution) ** 2, resolution=resolution, batch=batch))
    (chart,) = resolutions.charts(gather(kept(tmp_path / "results", made)))
    one, four = panels(chart.spec)
    assert (one["title"], four["title"]) == ("batch 1", "batch 4")
    for panel, batch, sizes in ((one, 1, {"384", "448"}), (four, 4, {"224"})):
        points = panel["data"]["values"]
        assert {point["batch"] for point in points} == {batch}
        assert {point["resolution"] for point in points} == sizes
        assert len({point["line"] for point in points}) == 2, "one line a model"
    assert "different batches are not joined" in chart.caption
    assert one["encoding"]["y"]["scale"] == four["encoding"]["y"]["scale"], "panels are read off one scale"


def test_conditions_have_charts_of_their_own(tmp_path: Path) -> None:
    made = [
        timed("overlock_t", "throughput", 10.0 / int(resolution), resolution=resolution, dtype=dtype)
        for resolution in ("224", "384")
        for dtype in ("float32", "bfloat16")
    ]
    found = resolutions.charts(gather(kept(tmp_path / "results", made)))
    assert len({chart.name for chart in found}) == len(found) == 2


def test_each_size_of_a_family_has_a_stroke_of_its_own(tmp_path: Path) -> None:
    made = [
        timed(f"overlock_{size}", "throughput", 10.0 / int(resolution), resolution=resolution)
        for resolution in ("224", "384")
        for size in ("xt", "t", "s", "b")
    ]
    (chart,) = resolutions.charts(gather(kept(tmp_path / "results", made)))
    strokes = chart.spec["layer"][0]["encoding"]["strokeDash"]["scale"]["range"]
    assert len({tuple(stroke) for stroke in strokes}) == 4
