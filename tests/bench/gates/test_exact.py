"""What is exact: the file is complete, drawn weights are the same everywhere, differences are told from noise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench import cli, gate
from bench.cli import BadInput
from bench.cost.count import count_parameters
from bench.gates import exact, expected, fingerprint, fixed, verdict
from bench.gates.expected import FAILED, NATIVE_METRICS, Figure, Measured, difference, judge, updated
from bench.loading import counted_structure
from bench.models import MODELS
from bench.records.store import results_folder

FILE = results_folder() / "expected.csv"
FORMS = [(name, form) for name, entry in MODELS.items() for form in entry.family.forms]
LOGITS = Figure("m", "deploy", "logits", "224", "float32", "2.0 1.0 -1.0")


@pytest.fixture(scope="module")
def known() -> dict[expected.Key, Figure]:
    return expected.read(FILE)


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_the_file_has_every_registered_model_and_form(name: str, form: str, known: dict[expected.Key, Figure]) -> None:
    """Parameters are counted again; the rest is recomputed by the gate itself."""
    figures = [figure for figure in known.values() if (figure.model, figure.form) == (name, form)]
    metrics = [figure.metric for figure in figures]
    model = counted_structure(MODELS[name], form)
    assert known[name, form, "params", "", ""].value == str(count_parameters(model))
    assert known[name, form, "state_dict", "", ""].value == fingerprint.state_dict(model.state_dict())
    assert metrics.count("macs") == len(exact.RESOLUTIONS) == 5
    assert metrics.count("memory") == 1
    native = list(NATIVE_METRICS) if MODELS[name].family.contmix else []
    assert [metric for metric in metrics if "native" in metric] == native
    dtypes = {figure.dtype for figure in figures if figure.metric == "logits"}
    assert dtypes >= {"float32", "bfloat16"}
    assert ("float64" in dtypes) == (count_parameters(model) < exact.LARGE)


def test_the_file_has_no_other_models(known: dict[expected.Key, Figure]) -> None:
    assert {figure.model for figure in known.values()} == set(MODELS)
    assert all(figure.metric != FAILED for figure in known.values())
    assert all("not counted" not in figure.value and "nan" not in figure.value for figure in known.values())


def test_every_form_gives_the_same_logits_in_float64(known: dict[expected.Key, Figure]) -> None:
    """Folding changes nothing: a relation between figures that the file must keep."""
    for name, entry in MODELS.items():
        keys = [(name, form, "logits", "96", "float64") for form in entry.family.forms]
        if len(keys) > 1 and keys[0] in known:
            assert difference(known[keys[0]], known[keys[1]], "") == "", name


def test_c_kernels_give_the_same_logits(known: dict[expected.Key, Figure]) -> None:
    of_kernels = [figure for figure in known.values() if figure.metric == "logits native"]
    assert of_kernels
    for figure in of_kernels:
        plain = replace(figure, metric="logits")
        assert difference(known[plain.key], plain, "") == "", figure.subject


def test_what_a_machine_cannot_measure_is_not_missed_and_stays() -> None:
    native = Figure("overlock_t", "deploy", "memory native", "224", "float32", "1000")
    without = Measured([], no_native="no compiler")
    assert judge({native.key: native}, without, ["overlock_t"]) == []
    assert updated({native.key: native}, without, ["overlock_t"]) == [native]
    (missed,) = judge({native.key: native}, Measured([]), ["overlock_t"])
    assert missed.verdict == "DIFFERS"


def test_drawn_weights_are_the_same_everywhere() -> None:
    """Bits that were drawn once, written here."""
    values = fixed.uniform("head.weight", (2, 3), -1.0, 1.0)
    assert [f"{v:.7f}" for v in values.flatten().tolist()] == PINNED
    assert torch.equal(fixed.uniform("head.weight", (2, 3), -1.0, 1.0), values)
    assert not torch.equal(fixed.uniform("head.bias", (2, 3), -1.0, 1.0), values)
    assert set(fixed.signs(0, 64).tolist()) == {-1.0, 1.0}


PINNED = ["-0.7602124", "-0.0347800", "0.9181584", "-0.9002577", "-0.2844810", "0.5107576"]


def test_same_names_tensors_that_differ_or_lack() -> None:
    a = {"x": torch.ones(2), "y": torch.ones(2)}
    assert fixed.same(a, a) == []
    assert fixed.same(a, {"x": torch.zeros(2), "z": torch.ones(2)}) == ["x", "z", "y"]
    assert fixed.same({"x": torch.full((2,), torch.nan)}, {"x": torch.ones(2)}) == ["x"]


def test_logits_fingerprint_moves_with_any_logit() -> None:
    logits = torch.randn(2, 1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before = Figure("m", "deploy", "logits", "96", "float64", fingerprint.logits(logits))
    for i in (0, 999):
        logits[1, i] += 1e-3
        after = replace(before, value=fingerprint.logits(logits))
        assert "by " in difference(before, after, "AVX512")
        logits[1, i] -= 1e-3


@pytest.mark.parametrize(
    ("metric", "dtype", "old", "new", "differs"),
    [
        ("params", "", "100", "101", True),
        ("params", "", "100", "99", True),  # fewer is a difference too
        ("macs", "", "1000000000", "1000000001", True),
        ("macs", "", "1000", "not counted: no formula", True),
        ("memory", "float32", "1000", "1019", False),
        ("memory", "float32", "1000", "1200", True),
        ("memory", "float32", "1000", "800", True),
        ("state_dict", "", "3 tensors ab", "3 tensors ac", True),
        ("logits", "float32", "2 1 -1", "2.00003 1 -1", False),
        ("logits", "float32", "2 1 -1", "2 1.001 -1", True),
        ("logits", "float64", "2 1 -1", "2 1.0000001 -1", True),
        ("logits", "bfloat16", "2 1 -1", "2.1 1.1 -1.1", False),
        ("logits", "float32", "2 1 -1", "nan nan nan", True),
        ("logits", "float32", "2 1 -1", "2 1", True),
    ],
)
def test_differences_are_told_from_noise(metric: str, dtype: str, old: str, new: str, differs: bool) -> None:
    a, b = (Figure("m", "deploy", metric, "224", dtype, value) for value in (old, new))
    assert bool(difference(a, b, "AVX512")) == differs


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        *(("logits", f"2 {bad} -1") for bad in ("nan", "inf", "-inf", "garbage")),
        ("logits native", "nan nan nan"),
        ("logits", ""),
        *((metric, bad) for metric in ("params", "macs", "memory") for bad in ("nan", "", "-1", "not counted: no")),
        ("loaded", "704 of 705 tensors; not x"),
        ("state_dict", ""),
    ],
)
def test_what_is_no_figure_is_never_equal_and_never_written(metric: str, value: str) -> None:
    """On either side: not to itself, nor to a right one; and no --update writes it."""
    right = {"loaded": "5 of 5 tensors", "state_dict": "5 tensors ab"}.get(
        metric, "2 1 -1" if "logits" in metric else "5"
    )
    bad, good = (Figure("moganet_xt", "deploy", metric, "224", "float32", v) for v in (value, right))
    assert difference(bad, bad, "AVX512")
    assert difference(bad, good, "AVX512")
    assert difference(good, bad, "AVX512")
    assert not difference(good, good, "AVX512")
    for known in ({}, {bad.key: bad}, {good.key: good}):
        (judgement,) = judge(known, Measured([bad]), ["moganet_xt"])
        assert judgement.verdict == "DIFFERS"
        with pytest.raises(BadInput, match="nothing is written"):
            updated(known, Measured([bad]), ["moganet_xt"])


def test_two_updates_at_once_both_succeed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another one wrote meanwhile stays: the file is read again before it is written."""
    path = tmp_path / "expected.csv"
    first, second = (Figure(name, "deploy", "params", "", "", "5") for name in ("convnext_t", "moganet_xt"))

    def meanwhile(names: object, done: object, imports: object) -> Measured:
        expected.write(path, [first])
        return Measured([second])

    monkeypatch.setattr(exact, "measure", meanwhile)
    assert gate.main(["--exact", "--update", "--models", "moganet_xt", "--expected", str(path)]) == 0
    assert list(expected.read(path).values()) == [first, second]


def test_memory_is_held_to_less_on_another_kind_of_cpu() -> None:
    a, b = (Figure("m", "deploy", "memory", "224", "float32", value) for value in ("1000", "1110"))
    assert difference(a, b, "AVX512")
    assert not difference(a, b, "AVX2")
    assert difference(a, replace(b, value="1200"), "AVX2")


def test_new_and_vanished_figures_differ() -> None:
    known = {LOGITS.key: LOGITS}
    found = judge(known, Measured([replace(LOGITS, metric="macs", dtype="", value="1")]), ["m"])
    assert [j.verdict for j in found] == ["DIFFERS", "DIFFERS"]
    assert judge(known, Measured([]), ["another"]) == []


def test_a_model_that_fails_is_invalid_and_never_written() -> None:
    failed = Figure("m", "deploy", FAILED, "", "", "RuntimeError: no")
    (judgement,) = judge({LOGITS.key: LOGITS}, Measured([failed]), ["m"])
    assert (judgement.verdict, judgement.reason) == ("INVALID", "RuntimeError: no")
    with pytest.raises(BadInput, match="RuntimeError: no"):
        updated({}, Measured([failed]), ["m"])


def test_update_leaves_what_is_within_the_tolerance() -> None:
    known = Figure("moganet_xt", "deploy", "logits", "224", "float32", "2 1 -1")
    other = replace(known, model="convnext_t")
    noise, change = replace(known, value="2.00001 1 -1"), replace(known, value="2.1 1 -1")
    figures = {f.key: f for f in (known, other)}
    assert updated(figures, Measured([noise]), ["moganet_xt"]) == [other, known]
    assert updated(figures, Measured([change]), ["moganet_xt"]) == [other, change]


def test_a_weight_that_loading_leaves_out_is_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from torch import nn

    whole = nn.Module.load_state_dict

    def partly(self: nn.Module, state: dict[str, torch.Tensor], strict: bool = True, assign: bool = False) -> object:
        return whole(self, dict(list(state.items())[1:]), strict=False)

    entry, path = MODELS["moganet_xt"], tmp_path / "w.pth"
    state = exact._write_weights(entry, path)
    assert exact._arrived(entry, exact._loaded(entry, path), state).value == "705 of 705 tensors"
    monkeypatch.setattr(nn.Module, "load_state_dict", partly)
    told = exact._arrived(entry, exact._loaded(entry, path), state).value
    assert told == "704 of 705 tensors; not patch_embed1.projection.0.weight"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--exact", "--models", "overlok_t"], "did you mean overlock_t"),
        (["--exact", "--update", "--models", "overlok_t"], "did you mean overlock_t"),
        (["--exact", "--models", "resnet50"], "only models of the suite"),
        (["--exact", "--expected", "none.csv"], "--update writes one"),
        (["--accuracy", "none.npz"], "--against"),
        (["--exact", "--output", "/dev/null/file"], "cannot write"),
    ],
)
def test_bad_input_names_the_mend(arguments: list[str], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        gate.main(arguments)


def test_a_file_of_other_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "expected.csv"
    path.write_text("model,value\nm,1\n")
    with pytest.raises(BadInput, match="columns"):
        gate.main(["--exact", "--expected", str(path)])


def test_nothing_judged_is_an_error() -> None:
    assert verdict.exit_code([]) == cli.BAD_INPUT
