"""Parameters and MACs: exact where the truth is known by hand, agreeing counters for everything registered."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.cost import count as cost
from bench.cost.count import CostError, count_macs, count_parameters
from bench.cost.meta import RememberedShapes
from bench.engine.request import Request, Settings
from bench.engine.tasks import count
from bench.loading import counted_structure
from bench.metrics import COST
from bench.models import MODELS
from tests.bench.exact_params import exact_params

CASES = [(name, form) for name, entry in MODELS.items() for form in entry.family.forms]

# published.csv's counts on the released structures, by model family and form
EXACT = {
    ("OverLoCK", "train"): "params_train_with_aux",
    ("OverLoCK", "deploy"): "params_deploy_no_aux",
    ("UniRepLKNet", "train"): "params_train",
    ("UniRepLKNet", "deploy"): "params_deploy",
    ("MogaNet", "deploy"): "params",
}

# G, all of ContMix's products included, deploy form without the auxiliary head at 224x224
OVERLOCK = {"overlock_xt": 2.70, "overlock_t": 5.64, "overlock_s": 9.89, "overlock_b": 17.09}


@pytest.mark.parametrize(("name", "form"), CASES)
def test_counters_agree(name: str, form: str) -> None:
    """Both counters give the same number for every registered model; parameters are the published exact counts."""
    model = counted_structure(MODELS[name], form)
    result = count_macs(model, (224, 224))
    assert result.macs == result.macs_torch
    exact = exact_params(name).get(EXACT.get((MODELS[name].family.name, form), ""))
    if not name.startswith("convnext"):
        assert count_parameters(model) == exact
    if form == "deploy" and name in OVERLOCK:
        assert round(result.macs / 1e9, 2) == OVERLOCK[name]


def scaling_gap(model: nn.Module, resolution: tuple[int, int]) -> float:
    """How far the convolutions' MACs are from growing with the area when both sides double, relative.

    Zero for a network whose convolutions see the map alone; above it where squeeze-and-excitation and heads, whose
    cost stays, are convolutions too. A counter that misses convolutions at a size, or a size that is padded, shows.
    """
    small = count_macs(model, resolution).by_operator.get("conv", 0)
    large = count_macs(model, (2 * resolution[0], 2 * resolution[1])).by_operator.get("conv", 0)
    return abs(large / (4 * small) - 1) if small else 0.0


@pytest.mark.parametrize("name", ["overlock_xt", "convnext_t", "unireplknet_a", "moganet_xt"])
def test_convolutions_grow_with_the_area(name: str) -> None:
    """Twice the side, four times the convolutions' MACs, but for those on maps of fixed size (ContMix's keys): 1 %
    here. A counter that misses some at a size, or a padded size, is off by more."""
    assert scaling_gap(counted_structure(MODELS[name], "deploy"), (448, 448)) < 0.01


def test_a_network_that_does_not_scale_is_found() -> None:
    padded = Function(lambda x: F.conv2d(F.pad(x, (0, 16 - x.shape[-1])) if x.shape[-1] < 16 else x, meta(8, 3, 3, 3)))
    assert scaling_gap(padded, (8, 8)) > 0.05


def test_activations_are_the_outputs_of_products() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10)).to("meta")
    assert cost.count_activations(layers, (8, 8)) == 8 * 16 + 10


OVERLOCK_XT = Request(kind=COST, model="overlock_xt", form="deploy", resolution=(64, 64), settings=Settings())


def test_what_no_counter_counts_is_said() -> None:
    (figure,) = (figure for figure in count(OVERLOCK_XT, "macs") if figure.counter == "defined")
    assert any("neither counter counts" in note and "gelu" in note for note in figure.notes)


def test_parameters_with_and_without_the_auxiliary_head() -> None:
    found = {figure.metric: figure.value for figure in count(OVERLOCK_XT, "params")}
    assert found.keys() == {"params", "params_with_aux"}
    assert found["params"] == 16_453_712
    assert found["params_with_aux"] > found["params"]


@pytest.mark.parametrize("size", [(32, 32), (72, 72), (160, 192), (640, 384)])
def test_any_size_is_counted(size: tuple[int, int]) -> None:
    result = count_macs(counted_structure(MODELS["overlock_xt"], "deploy"), size)
    assert result.macs == result.macs_torch > 0
    assert result.by_operator.keys() == {"conv", "contmix"}


class Function(nn.Module):
    """A module of one function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def meta(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


@pytest.mark.parametrize(
    ("function", "macs"),
    [
        pytest.param(lambda x: F.conv2d(x, meta(8, 3, 3, 3), None, 2, 1), 8 * 3 * 9 * 16, id="convolution"),
        pytest.param(lambda x: F.conv2d(x, meta(6, 1, 5, 5), meta(6), 1, 2, 1, 3), 6 * 25 * 64, id="grouped"),
        pytest.param(lambda x: F.conv2d(x, meta(3, 1, 3, 3), None, 1, 6, 6, 3), 3 * 9 * 64, id="dilated depthwise"),
        pytest.param(lambda x: F.conv2d(x, meta(4, 3, 5, 3), padding="same"), 4 * 3 * 15 * 64, id="same padding"),
        pytest.param(lambda x: F.conv2d(x, meta(4, 3, 3, 3), padding="valid"), 4 * 27 * 36, id="valid padding"),
        pytest.param(lambda x: F.conv_transpose2d(x, meta(3, 5, 2, 2), None, 2), 64 * 3 * 5 * 4, id="transposed"),
        pytest.param(lambda x: F.conv1d(x[0], meta(7, 8, 3), padding=1), 3 * 7 * 8 * 3 * 8, id="one-dimensional"),
        pytest.param(lambda x: F.linear(x, meta(10, 8), meta(10)), 24 * 8 * 10, id="linear"),
        pytest.param(lambda x: x @ x.transpose(2, 3), 3 * 8 * 8 * 8, id="matrix product"),
        pytest.param(lambda x: torch.einsum("bchw,bcwk->bchk", x, x), 3 * 8 * 8 * 8, id="einsum"),
        pytest.param(lambda x: F.scaled_dot_product_attention(x, x, x), 2 * 3 * 8 * 8 * 8, id="attention"),
        pytest.param(lambda x: F.layer_norm(F.gelu(x) + x, (8, 8)).mean((2, 3)), 0, id="norms and sums"),
    ],
)
def test_known_by_hand(function: Callable[[Tensor], Tensor], macs: int) -> None:
    """On one image of 3x8x8."""
    result = count_macs(Function(function), (8, 8))
    assert result.macs == result.macs_torch == macs


def test_shared_parameters_count_once() -> None:
    layer = nn.Linear(3, 4)
    assert count_parameters(nn.Sequential(layer, layer)) == 16


@torch.library.custom_op("bench_test::mystery", mutates_args=())
def mystery(x: Tensor) -> Tensor:
    return x.clone()


@mystery.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x * 2


@pytest.mark.parametrize(
    ("function", "name"),
    [(lambda x: mystery(x), "bench_test::mystery"), (lambda x: Double.apply(x), "Double"), (torch.fft.fft, "fft_fft")],
)
def test_an_operator_without_a_formula_is_named(function: Callable[[Tensor], Tensor], name: str) -> None:
    with pytest.raises(CostError, match=name):
        count_macs(Function(function), (8, 8))


def test_a_formula_off_by_two_percent_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = cost._HANDLES[cost.CONVOLUTION]
    monkeypatch.setitem(
        cost._HANDLES, cost.CONVOLUTION, lambda i, o: {k: int(v * 1.02) for k, v in right(i, o).items()}
    )
    with pytest.raises(CostError, match="disagree"):
        count_macs(counted_structure(MODELS["moganet_xt"], "deploy"), (64, 64))


@pytest.mark.parametrize("name", ["overlock_xt", "convnext_t", "moganet_xt"])
def test_remembering_shapes_changes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = counted_structure(MODELS[name], "deploy")
    remembered = count_macs(model, (96, 64))
    monkeypatch.setattr(cost, "RememberedShapes", contextlib.nullcontext)
    assert count_macs(model, (96, 64)) == remembered


def test_numbers_that_are_no_shapes_are_not_remembered() -> None:
    with RememberedShapes():
        once, again = (torch.arange(4) for _ in range(2))
    assert once.tolist() == again.tolist() == [0, 1, 2, 3]
