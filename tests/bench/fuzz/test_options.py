"""Whatever options a command is given, it begins or says in one line what is wrong; nothing is measured here."""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import importlib
import io
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import strategies as st

import bench.cli
import bench.dense.build
import bench.loading
import bench.machine.environment
import bench.reporting.data
from bench.cli import BadInput
from tests.bench.fuzz.mutations import try_all

COMMANDS = ("compare", "top1", "gate", "claims", "report", "calibrate", "erf", "coco", "ade20k", "train_coco",
            "train_ade20k", "train_imagenet", "gpu_run", "list", "sweep")  # fmt: skip
VALUES = (
    *("", "0", "-1", "1", "3", "1e999", "nan", "0.5", "224", "31", "64x32", "9" * 5000, "\u0663", "\u00b2", "\udcff"),
    *("all", "overlock_xt", "overlok", "resnet18", "convnext_t", "=", "overlock_xt=", "overlock_xt=/nowhere.pth"),
    *("random", "a" * 300, "cpu", "cuda", "cuda:99", "mps", "float32", "fp16", "json", "/dev/null/x", "/dev/full", "."),
    *("file.txt", "folder", "link", "--", "params", "throughput", "latency", "segmentation", "HEAD"),
)


class Begins(BaseException):
    """The command has taken its options and would work now."""


def begins(*args: Any, **kwargs: Any) -> NoReturn:
    raise Begins


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a text file, a folder and a dangling link, where no command gets beyond its beginning."""
    (tmp_path / "file.txt").write_text("not what is wanted\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "no such file")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OVERLOCK_OFFLINE", "1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(subprocess.Popen, "__init__", begins)
    monkeypatch.setattr(concurrent.futures, "ProcessPoolExecutor", begins)
    monkeypatch.setattr(bench.loading, "load", begins)
    monkeypatch.setattr(bench.dense.build, "build_dense", begins)
    monkeypatch.setattr(bench.machine.environment, "collect", begins)
    monkeypatch.setattr(bench.reporting.data, "gather", begins)
    monkeypatch.setattr(bench.cli, "write_whole", begins)  # what --output names may be written
    return tmp_path


def options_of(command: Any) -> st.SearchStrategy[list[str]]:
    """Some of a command's options, each with values that it offers or with others."""
    actions = [a for a in command.parser()._actions if not isinstance(a, argparse._HelpAction)]

    def given(action: argparse.Action) -> st.SearchStrategy[list[str]]:
        flag = list(action.option_strings[-1:])
        if action.nargs == 0:
            return st.just(flag)
        usual = [str(choice) for choice in action.choices or ()]
        value = st.sampled_from([*usual * 20, *VALUES])
        return st.lists(value, min_size=action.nargs != "?", max_size=2).map(lambda values: [*flag, *values])

    required = st.tuples(*(given(a) for a in actions if a.required))
    rest = [given(a) for a in actions if not a.required]
    some = st.lists(st.one_of(rest), max_size=4)
    return st.tuples(required, some).map(lambda both: [word for part in (*both[0], *both[1]) for word in part])


def begins_or_refuses(command: Any, args: Sequence[str]) -> None:
    out, errors = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            command.main(list(args))
    except Begins:
        pass
    except BadInput as error:
        if not str(error).strip():
            raise
    except SystemExit as ended:
        if ended.code == 2 and errors.getvalue().count("\n") != 1:
            raise AssertionError(f"more than one line: {errors.getvalue()}") from ended


@pytest.mark.parametrize("examples", [25, pytest.param(1500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", COMMANDS)
def test_any_options_are_taken_or_refused(name: str, examples: int, workplace: Path) -> None:
    command = importlib.import_module(f"bench.{name}")
    try_all(lambda args: begins_or_refuses(command, args), options_of(command), examples)
    assert (workplace / "file.txt").read_text() == "not what is wanted\n"
    assert (workplace / "link").is_symlink()
