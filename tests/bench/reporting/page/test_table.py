"""The page's tables: what stands first, what is a constant, how the first click sorts."""

from __future__ import annotations

from pathlib import Path

from bench.reporting.data import Report, gather
from bench.reporting.page.html import page
from bench.reporting.page.table import DOWN, UP, tables
from bench.reporting.summary import lines
from tests.bench.reporting.made_records import MACHINES, cost, kept, record, timed


def report(folder: Path, **changes: object) -> Report:
    made = cost()
    for model, speed in (("overlock_t", 14.0), ("convnext_b", 7.0)):
        made.append(timed(model, "throughput", speed, **changes))
        made.append(timed(model, "memory", speed * 2**20, **changes))
        made.append(timed(model, "throughput_ratio", speed / 7, against="convnext_b deploy", **changes))
    made += cost(resolution="512", task="segmentation", head="upernet")
    return gather(kept(folder / "results", made))


def test_what_is_looked_for_first_stands_first(tmp_path: Path) -> None:
    main, dense = tables(report(tmp_path).rows)
    headings = [column.heading for column in main.columns]
    assert headings[:6] == [
        "model", "size", "throughput ratio to convnext_b", "throughput images/s", "memory MiB", "top-1 % published",
    ]  # fmt: skip
    assert (main.key, dense.key, dense.title) == ("results", "results-1", "Segmentation")


def test_what_all_rows_share_is_no_column(tmp_path: Path) -> None:
    main = tables(report(tmp_path).rows)[0]
    headings = {column.heading for column in main.columns}
    assert not headings & {"device", "dtype", "form", "threads", "compile", "machine", "batch"}
    for shared in ("deploy form", "cpu", "float32", "batch 4", "CPU threads 2"):
        assert shared in main.shared


def test_contradicting_published_figures_have_their_sources_below_the_table(tmp_path: Path) -> None:
    made = [timed("convnext_t", "throughput", 14.0), record("convnext_t", "params", 28_589_128)]
    found = gather(kept(tmp_path / "results", made))
    (main,) = tables(found.rows)
    (line,) = main.footnotes
    assert line.startswith("published 28/29, parameters of convnext_t: 28 M by facebookresearch/ConvNeXt")
    assert "Published figures that contradict each other: 1" in page(found)
    assert tables(report(tmp_path / "other").rows)[1].footnotes == (), "nothing of segmentation contradicts"


def test_what_differs_is_a_column(tmp_path: Path) -> None:
    both = report(tmp_path).rows[:] + report(tmp_path / "other", machine=MACHINES[1], dtype="bfloat16", batch=8).rows[:]
    main = tables(both)[0]
    headings = [column.heading for column in main.columns]
    assert {"machine", "dtype", "batch"} <= set(headings)
    assert [name for _, name in main.filters] == [
        h for h in headings if h in ("size", "batch", "family", "dtype", "machine")
    ]
    assert headings[:2] == ["model", "machine"], "a speed is of a machine"


def test_the_first_click_puts_the_best_on_top(tmp_path: Path) -> None:
    first = {column.heading: column.first for column in tables(report(tmp_path).rows)[0].columns}
    assert first["throughput images/s"] == first["throughput ratio to convnext_b"] == DOWN
    assert first["top-1 % published"] == DOWN
    assert first["memory MiB"] == first["MACs G"] == first["parameters M"] == first["model"] == UP


def test_five_lines_say_what_holds(tmp_path: Path) -> None:
    said = dict(lines(report(tmp_path)))
    assert list(said) == ["Speed", "Memory", "Cost", "Accuracy", "Statements"]
    assert "as fast as ConvNeXt-B: OverLoCK-T 2.00" in said["Speed"]
    assert "from ConvNeXt-B 7.0 MiB to OverLoCK-T 14.0 MiB" in said["Memory"]
    assert "33.47 M parameters and 5.64 G MACs, 0.38 and 0.37 of ConvNeXt-B's" in said["Cost"]
    assert "nothing was measured" in said["Accuracy"]


def test_a_line_of_speed_names_its_machine_where_there_are_several(tmp_path: Path) -> None:
    made = cost()
    for machine, models in zip(MACHINES, (("overlock_t", "convnext_b"), ("overlock_t",)), strict=True):
        made += [timed(model, "throughput", 7.0, machine=machine) for model in models]
        made += [timed(model, "memory", 7.0 * 2**20, machine=machine) for model in models]
    said = [of for of, _ in lines(gather(kept(tmp_path / "results", made)))]
    speeds = [f"Speed on {machine}" for machine in MACHINES]
    assert said == [*speeds, f"Memory on {MACHINES[0]}", "Cost", "Accuracy", "Statements"]


def test_questions_are_not_counted_as_statements_of_others(tmp_path: Path) -> None:
    gathered = report(tmp_path)
    questions = sum(finding.statement.question for finding in gathered.findings)
    said = dict(lines(gathered))["Statements"]
    assert said.startswith(f"of {len(gathered.findings) - questions} that others published: ")
    assert "YES" in said.partition("Questions")[2]
    assert "YES" not in said.partition("Questions")[0]


def test_what_is_only_counted_comes_last(tmp_path: Path) -> None:
    made = [*cost(), *(timed("overlock_t", "throughput", 7.0, machine=machine) for machine in MACHINES)]
    main = tables(gather(kept(tmp_path / "results", made)).rows)[0]
    assert [cell.text for cell in main.columns[1].cells] == [*MACHINES, "", ""], "machine-a and -b are no machine"


def test_machines_go_by_short_names_where_these_tell_them_apart(tmp_path: Path) -> None:
    made = [timed("overlock_t", "throughput", 7.0, machine=machine) for machine in ("cpu-2c-1f", "gpu-8c-2e")]
    main = tables(gather(kept(tmp_path / "results", made)).rows)[0]
    assert [cell.text for cell in main.columns[1].cells] == ["cpu-2c", "gpu-8c"]


def test_each_verdict_has_its_colour() -> None:
    from bench.evidence.finding import Verdict
    from bench.reporting.page import html

    style = (html.HERE / "page.css").read_text(encoding="utf-8")
    for verdict in Verdict:
        assert f".{verdict.value.lower().replace(' ', '-')}" in style, verdict
