"""The table of models."""

from __future__ import annotations

import csv
import io

import pytest

from bench import compare
from bench.list import main
from bench.models import MODELS


def test_every_model_has_its_forms_figures_and_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--format", "csv"]) == 0
    rows = {row["model"]: row for row in csv.DictReader(io.StringIO(capsys.readouterr().out))}
    assert list(rows) == list(MODELS)
    assert all(row["parameters M (published)"] and row["top-1 % (published)"] for row in rows.values())
    assert rows["overlock_b"]["evaluated at"] == "224 center crop_pct 0.975 bicubic"
    assert rows["unireplknet_l"]["evaluated at"] == "384 squash crop_pct 1 bicubic"
    assert rows["overlock_t"]["forms"] == "train deploy"


def test_a_pattern_and_a_timm_name_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--models", "moganet_x*", "resnet18", "--format", "csv"]) == 0
    names = [row["model"] for row in csv.DictReader(io.StringIO(capsys.readouterr().out))]
    assert names == ["moganet_xt", "moganet_xl", "resnet18"]


def test_a_command_lists_the_models_without_what_it_requires(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        compare.main(["--list"])
    assert ended.value.code == 0
    assert "224 center crop_pct 0.95 bicubic" in capsys.readouterr().out
