"""What stands below a table: both sources of contradicting figures, what was set aside, figures of a dirty tree."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.reporting.data import Report, gather
from bench.reporting.readme import TABLE, parts
from bench.reporting.results import results_readme
from bench.reporting.tables import DIRTY, comparison
from tests.bench.reporting.made_records import cost, kept, timed

NOTE = "round 1 set aside: a process over 1.3 times off its side's other ones"


@pytest.fixture
def report(tmp_path: Path) -> Report:
    made = [*cost(), timed("convnext_t", "throughput", 15.0, dirty=True, notes=(NOTE,), layout="channels_last")]
    made.append(timed("convnext_b", "throughput", 7.5, notes=("warm-up did not settle within 1.5 s",)))
    return gather(kept(tmp_path / "results", made))


def test_the_readme_s_table_keeps_its_promises(report: Report) -> None:
    text = parts(report)[TABLE]
    assert NOTE in text
    assert "warm-up did not settle" in text
    assert "channels_last" in text
    assert "Not measured under these conditions: overlock_xt, overlock_t" in text


def test_contradicting_figures_have_both_sources(report: Report) -> None:
    for text in (parts(report)[TABLE], results_readme(report)):
        (line,) = [line for line in text.splitlines() if "published 28/29, parameters of convnext_t" in line]
        assert '28 M by facebookresearch/ConvNeXt@048efce README.md "ImageNet-1K trained models"' in line
        assert '29 M by facebookresearch/ConvNeXt@048efce README.md "ImageNet-22K trained models"' in line


def test_in_a_paper_both_sources_are_in_the_caption(report: Report) -> None:
    caption = next(line for line in comparison(report.rows, "latex").splitlines() if line.startswith("\\caption"))
    assert "Published 28/29, parameters of ConvNeXt-T: 28 M by" in caption
    assert "29 M by facebookresearch/ConvNeXt@048efce" in caption


def test_figures_of_a_dirty_tree_are_marked(report: Report) -> None:
    for text in (parts(report)[TABLE], results_readme(report)):
        (row,) = [line for line in text.splitlines() if line.startswith("| convnext_t ") and "15.0" in line]
        assert row.count(DIRTY) == 1
        assert f"{DIRTY} measured from a tree with uncommitted changes" in text
        (clean,) = [line for line in text.splitlines() if line.startswith("| convnext_b ") and "7.5" in line]
        assert DIRTY not in clean


def test_what_is_not_measured_is_folded_with_its_command(report: Report) -> None:
    _, _, folded = results_readme(report).partition("<details><summary>")
    (line,) = [line for line in folded.splitlines() if "surpasses ConvNeXt-B in ImageNet-1K top-1" in line]
    assert "measure it: `python -m bench.top1 --models overlock_t convnext_b" in line
