"""Tables, the page and figures, from records made by hand."""

from __future__ import annotations

import html.parser
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench import report as command
from bench.cli import BadInput
from bench.metrics import METRICS
from bench.paper import escaped
from bench.records.record import Record
from bench.records.store import save
from bench.reporting.charts import charts
from bench.reporting.charts.draw import FORMATS, figures
from bench.reporting.data import Report, gather, histories
from bench.reporting.page.html import page
from bench.reporting.readme import FIGURE, TABLE, replaced
from bench.reporting.results import claims_latex, latex, results_readme
from bench.reporting.rows import rows
from bench.reporting.tables import comparison
from tests.bench.reporting.made_records import MACHINES, cost, kept, record, timed

README = """# A project

before
<!-- bench.report:table -->
old
<!-- /bench.report:table -->
between
<!-- bench.report:figure -->
<!-- /bench.report:figure -->
after
"""


def measured() -> list[Record]:
    """Two resolutions, two machines, two runs, a breakdown, the peaks, and a row that failed."""
    made = [*cost(), *cost(resolution="384")]
    for i, (machine, run) in enumerate([(MACHINES[0], "run-1"), (MACHINES[0], "run-2"), (MACHINES[1], "run-3")]):
        common = {"machine": machine, "run": run, "commit": f"{i}" * 40, "time": f"2026-01-0{i + 1}T00:00:00+00:00"}
        for model, speed in (("overlock_t", 12.5), ("convnext_b", 7.5), ("convnext_t", 15.0)):
            made.append(timed(model, "throughput", speed + i, **common))
            made.append(timed(model, "memory", speed * 2**20, **common))
            made.append(timed(model, "throughput", speed / 3, **common, resolution="384", batch=1))
    for kind, time in (("ContMix", 0.01), ("pointwise", 0.03)):
        for of in ("time", "macs", "params", "activations"):
            made.append(timed("overlock_t", f"breakdown/operator/{of}/{kind}", time))
            made.append(timed("overlock_t", f"breakdown/stage/{of}/{kind}", time))
    made += [timed("overlock_t", "bytes_moved", 3e8, run="run-2"), timed("convnext_b", "bytes_moved", 6e8, run="run-2")]
    made.append(timed("machine", "peak_macs", 2e11, form=""))
    made.append(timed("machine", "copy_bandwidth", 1e10, form=""))
    broken = timed("overlock_t", "latency", 0.5)
    made.append(replace(broken, valid=False, reasons=("the canary moved by 9 %",)))
    return made


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kept(tmp_path_factory.mktemp("repository") / "results", measured())


@pytest.fixture(scope="module")
def gathered(results: Path) -> Report:
    return gather(results)


def test_a_row_takes_the_newest_record_of_each_metric(gathered: Report) -> None:
    (row,) = [
        r for r in gathered.rows
        if (r.model, r.machine, r.resolution) == ("overlock_t", MACHINES[0], "224") and "throughput" in r.cells
    ]  # fmt: skip
    assert row.value("throughput") == 13.5
    assert row.value("macs") == 5.64e9
    assert row.batch == 4
    assert row.published("macs") == ["5.5"]
    assert row.published("top1") == ["84.2"]


def test_rows_of_two_machines_stay_apart(gathered: Report) -> None:
    speeds = {
        r.machine: r.value("throughput") for r in gathered.rows if (r.model, r.resolution) == ("convnext_b", "224")
    }
    assert speeds == {MACHINES[0]: 8.5, MACHINES[1]: 9.5}
    text = results_readme(gathered)
    assert all(f"## {machine}" in text for machine in MACHINES)
    assert all(f"CPU of {machine}" in text for machine in MACHINES)


def test_other_conventions_do_not_take_the_place_of_ours() -> None:
    from bench.evidence.evidence import Placed

    made = [record("overlock_t", "macs", 5.64e9, counter="defined"), record("overlock_t", "macs", 5.5e9, counter="x")]
    for order in (made, made[::-1]):
        (row,) = rows(Placed(x, "") for x in order)
        assert row.value("macs") == 5.64e9


def test_a_ratio_names_what_it_is_to() -> None:
    from bench.evidence.evidence import Placed

    made = [
        timed(model, "throughput_ratio", 1.5, against=f"{base} deploy", lo=1.4, hi=1.6)
        for model, base in (("overlock_t", "convnext_b"), ("overlock_xt", "convnext_t"))
    ]
    made.append(replace(made[0], model="overlock_s"))
    one, two, most = (comparison(rows(Placed(r, "") for r in some)) for some in (made[:1], made[:2], made))
    assert "throughput ratio to convnext_b" in one
    assert "1.50 [1.40, 1.60] |" in one
    assert "1.50 [1.40, 1.60] to convnext_t deploy" in two
    assert "1.50 [1.40, 1.60] to convnext_b deploy" in two
    assert "throughput ratio to convnext_b" in most, "what most are to is the heading"
    assert "1.50 [1.40, 1.60] to convnext_t deploy" in most


def test_an_invalid_figure_is_marked_and_its_reason_told(gathered: Report) -> None:
    text = results_readme(gathered)
    assert "500.0 ±1.0% (invalid)" in text
    assert "the canary moved by 9 %" in text


def test_speeds_stand_below_the_libraries_that_they_were_measured_with(tmp_path: Path) -> None:
    """A later run that only counted, with another PyTorch, is not what a table of speeds was measured by."""
    folder = kept(tmp_path / "results", [timed("overlock_t", "throughput", 14.0)])
    later = {"machine": MACHINES[0], "cpu": "A", "cores": 2, "memory_bytes": 8 << 30, "os": "Linux", "python": "3.12",
             "libraries": {"torch": "9.9.9", "timm": "1.0"}, "device": "cpu"}  # fmt: skip
    save([record("overlock_t", "params", 1.0, run="run-2")], later, folder)
    assert "torch 2.15.0" in gather(folder).machines[MACHINES[0]]
    save([timed("overlock_t", "throughput", 15.0, run="run-3")], later, folder)
    assert "torch 9.9.9" in gather(folder).machines[MACHINES[0]]


def test_a_history_joins_equal_conditions_only(gathered: Report) -> None:
    series = histories(gathered)
    lengths = {key[:3]: len(found) for key, found in series.items() if key[4] == "224"}
    assert lengths[MACHINES[0], "throughput", "overlock_t"] == 2
    assert MACHINES[1] not in {key[0] for key in series}


def test_a_history_has_a_point_for_each_commit_the_newest(tmp_path: Path) -> None:
    made = [
        timed("overlock_t", "throughput", speed, commit=commit * 40, run=run, time=f"2026-01-0{run[-1]}T00:00:00+00:00")
        for speed, commit, run in ((10.0, "a", "run-1"), (11.0, "a", "run-2"), (12.0, "b", "run-3"))
    ]
    (found,) = histories(gather(kept(tmp_path / "results", made))).values()
    assert [placed.value for placed in found] == [11.0, 12.0]


def test_readme_parts_are_replaced_and_nothing_else() -> None:
    text = replaced(README, {TABLE: "new", FIGURE: "![x](y)"})
    assert text.startswith("# A project\n\nbefore\n<!-- bench.report:table -->\n\nnew\n\n<!-- /bench.report:table -->")
    assert "old" not in text
    assert text.endswith("after\n")
    assert replaced(text, {TABLE: "new", FIGURE: "![x](y)"}) == text
    assert replaced("no markers\n", {TABLE: "new"}) == "no markers\n"
    with pytest.raises(BadInput, match="never closed"):
        replaced("<!-- bench.report:table -->", {TABLE: "new"})


def test_latex_tables_are_booktabs(gathered: Report, tmp_path: Path) -> None:
    for path in latex(gathered, tmp_path):
        text = path.read_text()
        assert text.count("\\toprule") == text.count("\\bottomrule") == text.count("\\caption") >= 1
        assert "_" not in text.replace("\\_", "").replace("% ", "").split("\\toprule")[1]
        assert "overlock" not in text.split("\\begin", 1)[1], "names as papers write them"
        if "cpu-float32" in path.name:
            assert "OverLoCK-T" in text
            assert "CPU threads 2" in text, "conditions in the caption"


def test_statements_and_questions_have_captions_of_their_own(gathered: Report) -> None:
    text = claims_latex(gathered.findings)
    floats = text.split("\\begin{table}")[1:]
    asked = [part for part in floats if "?" in part.split("midrule")[1]]
    assert asked
    assert all("that no author stated" in part for part in asked)
    assert not [part for part in floats if part not in asked and "that no author stated" in part]
    assert "uncommitted changes" not in text
    dirty = [replace(f, evidence=tuple(replace(p, record=replace(p.record, dirty=True)) for p in f.evidence))
             for f in gathered.findings]  # fmt: skip
    assert "uncommitted changes" in claims_latex(dirty)


def test_a_minus_is_no_hyphen() -> None:
    assert escaped("-0.41 M (-0.47%), 2.5e-06, OverLoCK-T, 3-5 of [-0.1, 1]") == (
        "$-$0.41 M ($-$0.47\\%), 2.5e-06, OverLoCK-T, 3-5 of [$-$0.1, 1]"
    )


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed (apt-get install texlive)")
def test_latex_compiles_and_fits_the_page(tmp_path: Path) -> None:
    """The tables of the committed records, and what commands print with `--format latex`, with booktabs alone."""
    from bench import claims, compare
    from bench.profile.breakdown import render
    from bench.records.store import results_folder

    claims.main(["--all", "--format", "latex", "--output", str(tmp_path / "all-claims.tex")])
    mine = measured()
    (tmp_path / "compared.tex").write_text(compare.tables(mine, "latex", "Measured on a machine."))
    (tmp_path / "parts.tex").write_text(render(mine, "latex"))
    written = [*latex(gather(results_folder()), tmp_path), *(tmp_path / f"{n}.tex" for n in ("compared", "parts"))]
    written.append(tmp_path / "all-claims.tex")
    inputs = "\n".join(f"\\input{{{p.name}}}\n\\clearpage" for p in written)
    preamble = "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n"
    (tmp_path / "all.tex").write_text(f"{preamble}{inputs}\n\\end{{document}}\n")
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "all.tex"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, errors="replace", timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    log = (tmp_path / "all.log").read_text(errors="replace")
    wide = [float(points) for points in re.findall(r"Overfull \\hbox \(([\d.]+)pt too wide", log)]
    assert not [points for points in wide if points > 1], "a table is wider than the page"
    assert "Float too large" not in log


def test_figures_in_every_format(gathered: Report, tmp_path: Path) -> None:
    written = figures(gathered, tmp_path)
    stems = {path.stem for path in written}
    assert len(written) == len(stems) * len(FORMATS)
    for start in (
        "accuracy-cost",
        "resolutions-machine-a",
        "resolutions-machine-b",
        "roofline-",
        "breakdown-overlock_t",
    ):
        assert any(stem.startswith(start) for stem in stems), start
    assert all(path.stat().st_size > 1000 for path in written)
    again = {path.name: path.read_bytes() for path in figures(gathered, tmp_path / "again")}
    for path in written:
        if path.suffix == ".svg":
            assert path.read_bytes() == again[path.name], "equal data give an equal picture"
            assert "currentColor" not in path.read_text(), "ink that a page would give"


def test_charts_hold_the_figures(gathered: Report) -> None:
    sections = charts(gathered)
    assert sections.keys() == {"accuracy", "sweeps", "roofline", "breakdown", "history"}
    by_name = {chart.name: chart for found in sections.values() for chart in found}
    points = by_name["accuracy-macs-"].spec["data"]["values"]
    (t,) = [p for p in points if p["model"] == "overlock_t" and p["resolution"] == "224"]
    assert (t["value"], t["top1"], t["kind"], t["family"]) == (5.64, 84.2, "published", "OverLoCK")
    roof = by_name["roofline-machine-a-float32"].spec["data"]["values"]
    (t,) = [p for p in roof if p["model"] == "overlock_t"]
    assert t["intensity"] == pytest.approx(5.64e9 / 3e8)
    assert t["rate"] == pytest.approx(5.64 * 13.5)
    shares = by_name["breakdown-overlock_t-deploy-224-machine-a"].spec["data"]["values"]
    assert {p["part"]: p["share"] for p in shares if p["of"] == "time"} == {"ContMix": 0.25, "pointwise": 0.75}
    assert json.dumps({name: chart.spec for name, chart in by_name.items()})


class Reader(html.parser.HTMLParser):
    """What a browser without scripts shows: tags, and text outside of scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.fetched: list[str] = []
        self._silent = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [
            v for k, v in attrs if k in ("src", "href", "xlink:href") and v and not v.startswith(("#", "data:"))
        ]
        self._silent = tag if tag in ("script", "style") else self._silent

    def handle_endtag(self, tag: str) -> None:
        self._silent = "" if tag == self._silent else self._silent

    def handle_data(self, data: str) -> None:
        self.text += "" if self._silent else data


def test_the_page_stands_alone_and_reads_without_scripts(gathered: Report) -> None:
    text = page(gathered)
    assert len(text.encode()) < 5e6
    reader = Reader()
    reader.feed(text)
    assert reader.fetched == [], "nothing is fetched from anywhere"
    assert not re.search(r"@import|url\(\s*['\"]?http", text.split("<script")[0])
    assert reader.tags.count("svg") >= len([c for found in charts(gathered).values() for c in found])
    for said in ("overlock_t", "84.2", "one third of ConvNeXt-B", "REPRODUCED", "NOT MEASURABLE", "CPU of machine-b"):
        assert said in reader.text
    assert reader.text.count("records.csv:") > 2, "verdicts name their records"


def test_no_records(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    command = [sys.executable, "-m", "bench.report", "--results", "results", "--output", "report"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0
    (said,) = [line for line in done.stderr.splitlines() if not line.startswith("[")]
    assert "--save" in said
    assert done.stderr.splitlines()[-1].startswith("[6/6] ")
    text = (tmp_path / "report" / "index.html").read_text()
    assert "No records yet" in text
    assert "NOT MEASURED" in text


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no folder"):
        command.main(["--results", str(tmp_path / "nowhere")])


def test_output_that_cannot_be_written(results: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot write"):
        command.main(["--results", str(results), "--output", str(tmp_path / "file" / "x"), "--parts", "latex"])


def test_stale_files_are_found(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "results"
    shutil.copytree(results, copy)
    readme = tmp_path / "README.md"
    readme.write_text(README)
    where = ["--results", str(copy)]
    assert command.main([*where, "--check"]) == 1
    assert command.main([*where, "--parts", "results", "readme"]) == 0
    assert command.main([*where, "--check"]) == 0
    for path in (copy / "README.md", readme, copy / "figure.svg"):
        good = path.read_text()
        path.write_text(good.replace("deploy", "train").replace("<desc>", "<desc>0", 1))
        assert command.main([*where, "--check"]) == 1, path
        assert str(path) in capsys.readouterr().err
        path.write_text(good)
    assert command.main([*where, "--check"]) == 0
    kept(copy, [timed("overlock_t", "throughput", 99.0, time="2027-01-01T00:00:00+00:00", run="run-9")])
    assert command.main([*where, "--check"]) == 1, "a new record makes them stale"


def test_every_metric_of_the_table_has_a_heading(gathered: Report) -> None:
    (row,) = [r for r in gathered.rows if "latency" in r.cells]
    text = comparison([row])
    for metric in row.cells:
        if metric in METRICS:
            assert METRICS[metric].heading in text
