"""The deploy form has the training form's outputs, for every model that has one, and is a model like others."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import pytest
import timm
import torch
from torch import Tensor, nn

import baselines
from overlock import VARIANTS, deploy
from overlock.layers import GRN, LayerScale
from overlock.pyramid import FORMS
from tests.golden_tools import fill, image, relative_error
from tests.overlock.tools import SMALLEST, built

UNIREPLKNETS = tuple(baselines.unireplknet.VARIANTS)
# strict weights at whole depth amplify rounding: of S, noise of 1e-15 after each block becomes 2e-11
BIG = ("unireplknet_s", "unireplknet_b", "unireplknet_l", "unireplknet_xl")
SHALLOW = {"depths": (1, 1, 2, 1), "kernel_sizes": ((3,), (13,), (13, 3), (13,))}  # one block of each kind
BOUND = {torch.float32: 1e-5, torch.float64: 1e-10}
# with these weights two images' outputs differ by 1/1000 to 1/50 of their size, which float32 rounds to some 1e-7
DIFFERENCE_BOUND = {torch.float32: 2e-3, torch.float64: 1e-10}
SIZES = ((32, 32), (72, 72), (160, 192), (224, 224))


class Pair(NamedTuple):
    name: str
    model: Any
    deployed: Any


def strict_weights(model: nn.Module) -> nn.Module:
    """Weights under which nothing can be left out: statistics far from 0 and 1, factors of both signs and 0.

    Convolutions and norms over channels keep what `fill` gave them.
    """
    generator = torch.Generator().manual_seed(0)

    def uniform(like: Tensor, low: float, high: float) -> Tensor:
        return torch.rand(like.shape, generator=generator).to(like) * (high - low) + low

    def factor(like: Tensor) -> Tensor:  # a quarter zeros, a quarter negative
        kind = uniform(like, 0, 1)
        return uniform(like, 0.5, 1.5) * ((kind > 0.25).to(like) - 2 * (kind > 0.75).to(like))

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.copy_(uniform(module.running_mean, -1, 1))
                module.running_var.copy_(uniform(module.running_var, -2, 2).exp())
                module.weight.copy_(uniform(module.weight, 0.5, 1.5) * uniform(module.weight, -1, 3).sign())
                module.bias.copy_(uniform(module.bias, -0.5, 0.5))
            elif isinstance(module, LayerScale):
                module.weight.copy_(factor(module.weight))
                module.bias.copy_(uniform(module.bias, -0.5, 0.5))
            elif isinstance(module, GRN | baselines.unireplknet.GRN):
                module.gamma.copy_(factor(module.gamma))
                module.beta.copy_(uniform(module.beta, -0.5, 0.5))
            elif isinstance(module, baselines.unireplknet.UniRepLKNetBlock):
                module.gamma.copy_(factor(module.gamma))
    return model


def unlike_images(size: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Two images whose features differ widely: noise, and a smooth ramp of another level."""
    x = image(0, (2, 3, *size), dtype)
    x[1] = torch.linspace(-2, 1, size[1], dtype=dtype) + torch.linspace(-1, 1, size[0], dtype=dtype)[:, None]
    return x


def check_same(model: Any, deployed: Any, size: tuple[int, int], dtype: torch.dtype) -> None:
    """Of two images, and of what sets them apart."""
    x = unlike_images(size, dtype)
    with torch.inference_mode():
        wanted, got = model(x), deployed(x)
    if isinstance(wanted, Tensor):
        wanted, got = [wanted], [got]
    assert len(got) == len(wanted)
    for a, b in zip(got, wanted, strict=True):
        assert a.dtype == b.dtype == dtype
        assert b.isfinite().all()
        assert relative_error(a, b) < BOUND[dtype]
        assert relative_error(a[0] - a[1], b[0] - b[1]) < DIFFERENCE_BOUND[dtype]


@pytest.fixture(scope="module", params=VARIANTS)
def golden(request: pytest.FixtureRequest) -> Pair:
    """Each variant with the weights of the reference outputs, and its deploy form; to look at, not to change."""
    model = built(request.param)
    return Pair(request.param, model, deploy(model))


def sizes(*slow: tuple[int, int]) -> list[Any]:
    return [pytest.param(size, marks=pytest.mark.slow) if size in slow else size for size in SIZES]


@pytest.mark.parametrize("size", sizes((224, 224)))
def test_float32(golden: Pair, size: tuple[int, int]) -> None:
    check_same(golden.model, golden.deployed, size, torch.float32)


@pytest.mark.parametrize("size", sizes((32, 32), (160, 192), (224, 224)))
@pytest.mark.parametrize(
    "golden",
    [n if n in (SMALLEST, "overlock_t") else pytest.param(n, marks=pytest.mark.slow) for n in VARIANTS],
    indirect=True,
)
def test_float64(golden: Pair, size: tuple[int, int]) -> None:
    model = copy.deepcopy(golden.model).double()
    check_same(model, deploy(model), size, torch.float64)


@pytest.mark.parametrize("size", sizes((32, 32), (160, 192), (224, 224)))
def test_strict_weights(golden: Pair, size: tuple[int, int]) -> None:
    model = strict_weights(copy.deepcopy(golden.model))
    check_same(model, deploy(model), size, torch.float32)


@pytest.mark.parametrize("size", sizes((32, 32), (160, 192), (224, 224)))
@pytest.mark.parametrize("name", [n if n == SMALLEST else pytest.param(n, marks=pytest.mark.slow) for n in VARIANTS])
def test_strict_weights_float64(name: str, size: tuple[int, int]) -> None:
    model = strict_weights(built(name)).double()
    check_same(model, deploy(model), size, torch.float64)


def unireplknet(name: str, whole: bool = False) -> Any:
    kwargs: dict[str, Any] = SHALLOW if name in BIG and not whole else {}
    return fill(timm.create_model(name, **kwargs)).eval()


@pytest.mark.parametrize("size", sizes((32, 32), (160, 192), (224, 224)))
@pytest.mark.parametrize("name", UNIREPLKNETS)
def test_unireplknet(name: str, size: tuple[int, int]) -> None:
    model = strict_weights(unireplknet(name))
    check_same(model, deploy(model), size, torch.float32)


@pytest.mark.parametrize("size", sizes((32, 32), (160, 192), (224, 224)))
@pytest.mark.parametrize(
    "name", ["unireplknet_a", *(pytest.param(n, marks=pytest.mark.slow) for n in UNIREPLKNETS[1:])]
)
def test_unireplknet_float64(name: str, size: tuple[int, int]) -> None:
    for model in (unireplknet(name), strict_weights(unireplknet(name))):
        model.double()
        check_same(model, deploy(model), size, torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", BIG)
def test_unireplknet_whole(name: str, size: tuple[int, int]) -> None:
    model = unireplknet(name, whole=True)
    check_same(model, deploy(model), size, torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(384, 384), (512, 640)])
@pytest.mark.parametrize("name", [SMALLEST, "overlock_t", "unireplknet_t"])
def test_large_sizes(name: str, size: tuple[int, int]) -> None:
    model = unireplknet(name) if name in UNIREPLKNETS else built(name)
    check_same(model, deploy(model), size, torch.float32)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [(72, 104), pytest.param((224, 288), marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name", [SMALLEST, *(pytest.param(n, marks=pytest.mark.slow) for n in VARIANTS if n != SMALLEST)]
)
def test_pyramid(name: str, form: str, size: tuple[int, int]) -> None:
    model = strict_weights(built(name, features_only=True, dense_form=form))
    check_same(model, deploy(model), size, torch.float32)
    model.double()
    check_same(model, deploy(model), size, torch.float64)


def test_unireplknet_pyramid() -> None:
    model = strict_weights(fill(timm.create_model("unireplknet_a", features_only=True)).eval())
    check_same(model, deploy(model), (72, 104), torch.float32)


def test_merged_large_kernels() -> None:
    """A model built in the released re-parameterised form folds on."""
    model = strict_weights(built(SMALLEST, deploy=True)).double()
    check_same(model, deploy(model), (72, 72), torch.float64)


@pytest.mark.parametrize("kwargs", [{"num_classes": 0}, {"aux_head": True}, {"drop_path_rate": 0.0}])
def test_keywords(kwargs: dict[str, Any]) -> None:
    model = built(SMALLEST, **kwargs)
    check_same(model, deploy(model), (72, 72), torch.float32)


def test_nothing_is_left_to_fold(golden: Pair) -> None:
    kinds = {type(module) for module in golden.deployed.modules()}
    assert not any(issubclass(kind, nn.BatchNorm2d | LayerScale | GRN | nn.Dropout) for kind in kinds)
    assert not any(p.requires_grad for p in golden.deployed.parameters())
    assert golden.deployed.aux_head is None
