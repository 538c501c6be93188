"""The committed records: how they are measured anew, and that a commit can repeat them."""

from __future__ import annotations

import configparser
import importlib
import re

import pytest

from bench.evidence.questions import PAIRS
from bench.paths import REPOSITORY
from bench.records.record import Record
from bench.records.store import machines, read


def measured_anew() -> list[tuple[str, list[str]]]:
    """The commands of the suite in `tox -e results`, each with its arguments."""
    tox = configparser.RawConfigParser()
    tox.read(REPOSITORY / "tox.ini")
    section = tox["testenv:results"]
    variables = dict(re.findall(r"^(\w+) = (.+)$", section["set_env"], re.MULTILINE))
    text = re.sub(r"{env:(\w+)}", lambda name: variables[name[1]], section["commands"])
    found = re.findall(r"^python -m (bench\.\w+) ?(.*)$", text, re.MULTILINE)
    return [(name, options.split()) for name, options in found]


def test_the_commands_take_their_arguments_and_keep_what_they_measure() -> None:
    commands = measured_anew()
    assert {name for name, _ in commands} == {"bench.calibrate", "bench.claims", "bench.compare", "bench.report"}
    for name, options in commands:
        args = importlib.import_module(name).parser().parse_args(options)
        assert name != "bench.compare" or args.save


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_each_pair_of_the_questions_is_measured_in_one_run(first: str, second: str) -> None:
    from bench.compare import parser

    runs = [parser().parse_args(options) for name, options in measured_anew() if name == "bench.compare"]
    timed = [run for run in runs if "throughput" in run.metrics and not (run.breakdown or run.resolutions)]
    assert any(first in run.models and run.models[-1] == second for run in timed), "ratios are to the last model"


def test_no_figure_of_a_dirty_tree_is_committed_beside_a_clean_one() -> None:
    def figure(r: Record) -> tuple[object, ...]:
        return r.task, r.head, r.model, r.form, r.metric, r.resolution

    committed = [record for folder in machines(REPOSITORY / "results") for record in read(folder)]
    clean = {figure(record) for record in committed if not record.dirty}
    assert clean
    assert [figure(record) for record in committed if record.dirty and figure(record) in clean] == []
