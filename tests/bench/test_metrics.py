"""The table of metrics: every committed record's metric has its entry, in the unit that the record has."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bench.metrics import ASKED, METRICS, find, of_kind
from bench.records.record import TYPES
from bench.records.store import machines, read, results_folder


def test_every_committed_record_is_of_a_known_metric_in_its_unit() -> None:
    for folder in machines(results_folder()):
        for record in read(folder):
            metric = find(record.metric)
            assert metric is not None, record.metric
            assert record.unit == metric.unit, record.metric


def test_what_is_asked_for_can_be_shown() -> None:
    assert all(METRICS[name].heading and METRICS[name].kind for name in ASKED)


def test_a_ratio_follows_its_metric() -> None:
    names = list(METRICS)
    assert names[names.index("latency") + 1] == "latency_ratio"
    ratio = METRICS["latency_ratio"]
    assert (ratio.unit, ratio.better, ratio.depends_on) == ("ratio", "high", METRICS["latency"].depends_on)
    assert of_kind("latency") == ("latency", "latency_p90", "latency_p99")


@pytest.mark.parametrize("metric", METRICS)
def test_what_a_metric_depends_on_are_fields_of_a_record(metric: str) -> None:
    assert set(METRICS[metric].depends_on) <= set(TYPES)


def test_a_part_of_a_breakdown_is_of_what_is_broken_down() -> None:
    part = find("breakdown/stage/macs/blocks1")
    assert part is not None
    assert (part.name, part.unit) == ("breakdown/macs", "MACs")
    assert find("logits") is None


def test_importing_it_is_light() -> None:
    code = "import sys, bench.metrics; sys.exit(bool({'torch', 'pandas', 'numpy'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
