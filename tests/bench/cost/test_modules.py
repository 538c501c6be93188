"""The counter of modules: each rule by hand, what it does not see, and the figures that come out by it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bench.cost.conventions import counts, rounds_to
from bench.cost.modules import count_modules
from bench.models import MODELS
from bench.published import beside


class Derived(nn.Conv2d):
    pass


def counted(*layers: nn.Module, channels: int = 4) -> int:
    network = nn.Sequential(*layers).eval()
    return count_modules([network], lambda: network(torch.zeros(1, channels, 8, 8)))


RULES = [
    ("a convolution", nn.Conv2d(4, 6, 3, padding=1, bias=False), 6 * 64 * 9 * 4),
    ("its bias", nn.Conv2d(4, 6, 3, padding=1), 6 * 64 * (9 * 4 + 1)),
    ("groups", nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), 4 * 64 * 9),
    ("a transposed one", nn.ConvTranspose2d(4, 6, 2, stride=2), 4 * 64 * 4 * 6 + 6 * 256),
    ("a norm, twice", nn.BatchNorm2d(4), 2 * 256),
    ("a norm without weights", nn.BatchNorm2d(4, affine=False), 256),
    ("ReLU", nn.ReLU(), 256),
    ("a pool's inputs", nn.AdaptiveAvgPool2d(1), 256),
    ("no GELU", nn.GELU(), 0),
    ("no derived class", Derived(4, 6, 3, padding=1), 0),
]


@pytest.mark.parametrize(("layer", "expected"), [row[1:] for row in RULES], ids=[row[0] for row in RULES])
def test_each_rule_by_hand(layer: nn.Module, expected: int) -> None:
    assert counted(layer) == expected


def test_a_linear_layer_has_no_bias_and_a_shared_one_counts_each_call() -> None:
    shared = nn.Linear(8, 8)
    assert counted(shared, shared) == 2 * 4 * 8 * 8 * 8


def test_products_that_are_no_modules_are_not_seen() -> None:
    class Product(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x @ x

    assert counted(Product()) == 0


@pytest.mark.parametrize(
    "model",
    ["moganet_xt", *(pytest.param(f"overlock_{size}", marks=pytest.mark.slow) for size in ("xt", "t", "s", "b"))],
)
def test_published_figures_that_come_out_by_it(model: str) -> None:
    """The four of OverLoCK, no other convention of ours gives more than one of them."""
    size = 256 if model == "moganet_xt" else 224
    (figure, *_) = beside("macs", model, str(size))
    by = counts(MODELS[model], (size, size))
    assert rounds_to(by["counter of modules"], figure)
    assert not rounds_to(by["defined"], figure)
