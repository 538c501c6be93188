"""The registry: every entry builds, agrees with what is registered with timm, and knows its published figures."""

from __future__ import annotations

import subprocess
import sys

import pytest

import baselines
import overlock
from bench.cli import BadInput
from bench.loading import create, resolve
from bench.models import MODELS, baseline_of, chosen, entry_for_timm, find, unknown
from bench.published import beside, distinct
from tests.bench.exact_params import exact_params


def test_registry_has_what_is_registered_with_timm() -> None:
    assert set(MODELS) == {*overlock.VARIANTS, *baselines.MODELS}


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("overlock_t", "overlock_t"),
        ("OverLoCK-T", "overlock_t"),
        ("overlock_tiny", "overlock_t"),
        ("moganet_xtiny", "moganet_xt"),
        ("MogaNet-XL", "moganet_xl"),
        ("unireplknet_small", "unireplknet_s"),
    ],
)
def test_aliases(asked: str, name: str) -> None:
    assert resolve(asked).name == name


@pytest.mark.parametrize("name", ["resnet18", "convnext_tiny", "convnext_tiny.fb_in1k", "resnet18.a1_in1k"])
def test_a_timm_name_works_as_itself(name: str) -> None:
    assert find(name) is None
    assert resolve(name) == entry_for_timm(name)


@pytest.mark.parametrize(
    ("asked", "near"), [("overlok_t", "overlock_t"), ("resnet5", "resnet50"), ("resnet18.nonsense", "resnet18")]
)
def test_unknown_names_are_refused_with_the_nearest(asked: str, near: str) -> None:
    with pytest.raises(BadInput, match=near):
        resolve(asked)


def test_a_name_near_to_nothing_lists_the_models() -> None:
    assert "moganet_xl" in str(unknown("qqqqqqqq"))


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        (["OverLoCK-*"], ["overlock_xt", "overlock_t", "overlock_s", "overlock_b"]),
        (["*_xt", "overlock_xt", "resnet18"], ["overlock_xt", "moganet_xt", "resnet18"]),
        (["convnext_[ts]"], ["convnext_t", "convnext_s"]),
        (["all"], list(MODELS)),
    ],
)
def test_patterns_stand_for_the_models_of_the_suite_that_match(asked: list[str], names: list[str]) -> None:
    assert [entry.name for entry in chosen(asked)] == names


def test_a_pattern_that_nothing_matches_is_refused() -> None:
    with pytest.raises(BadInput, match="no model of the suite matches; it has overlock_xt"):
        chosen(["resnet*"])


@pytest.mark.parametrize(
    ("given", "baseline"),
    [(["all"], "convnext_t"), (["overlock_*"], "overlock_b"), (["all", "convnext_b"], "convnext_b")],
)
def test_the_baseline_of_a_pattern_is_no_accident_of_order(given: list[str], baseline: str) -> None:
    names = list(dict.fromkeys(entry.name for entry in chosen(given)))
    assert baseline_of(None, given, names if len(given) == 1 else [*names, "convnext_b"]) == baseline


def test_forms() -> None:
    assert MODELS["overlock_t"].forms("both") == ("train", "deploy")
    assert MODELS["unireplknet_b"].forms("train") == ("train",)
    assert [MODELS["convnext_b"].forms(asked) for asked in ("train", "deploy", "both")] == [("deploy",)] * 3


def test_a_timm_model_builds_by_its_tag() -> None:
    model = create(resolve("resnet18.a1_in1k"))
    assert not model.training


@pytest.mark.parametrize("name", MODELS)
def test_published_figures_are_found(name: str) -> None:
    """Each has published parameters, and published cost and top-1 at the resolution of its recipe."""
    entry = MODELS[name]
    for metric in ("params", "macs", "top1"):
        assert beside(metric, name, str(entry.resolution)), metric


@pytest.mark.parametrize(
    ("name", "metric", "resolution", "texts"),
    [
        ("overlock_t", "params", "224", ["33"]),
        ("overlock_t", "macs", "224", ["5.5"]),
        ("overlock_t", "top1", "224", ["84.2"]),
        ("convnext_b", "macs", "384", ["45.0", "47.0"]),
        ("moganet_s", "top1", "224", ["83.4", "83.8"]),
        ("moganet_b", "top1", "224", ["84.3", "84.2"]),
        ("unireplknet_s", "macs", "224", ["9.1"]),
        ("unireplknet_s", "macs", "384", ["26.7"]),
        ("overlock_t", "macs", "384", []),
    ],
)
def test_published_figures_with_their_contradictions(name: str, metric: str, resolution: str, texts: list[str]) -> None:
    assert [figure.text for figure in distinct(beside(metric, name, resolution))] == texts


def test_exact_parameter_counts_are_known_for_all_but_timms() -> None:
    assert all(exact_params(name) for name in MODELS if not name.startswith("convnext"))


def test_names_figures_and_arguments_need_no_torch() -> None:
    code = "import sys, bench.models, bench.published, bench.records.record, bench.engine.runner, bench.compare as c\n"
    code += "c.parser(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_an_empty_baseline_is_none_of_the_models() -> None:
    with pytest.raises(BadInput, match="--baseline '': not among"):
        baseline_of("", ["overlock_t"], ["overlock_t"])
