"""Parameters and MACs against the published configurations' counts, and each part's share."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

pytest.importorskip("torchvision")

from bench.dense.build import build_dense
from bench.dense.cost import SIZES, DenseCost, dense_cost
from bench.tasks import task_of
from overlock.layers import ResDWConv

# parameters in millions, MACs in 10^9, of the released configurations in deploy form: detection at 800x1280 with 1000
# boxes and 100 masks a stage, UperNet at 512x2048
COUNTED = {
    ("moganet_s", "cascade"): (82.83, 750.19),
    ("moganet_b", "cascade"): (101.22, 851.65),
    ("moganet_s", "cascade_2fc"): (77.92, 405.40),
    ("moganet_s", "maskrcnn"): (44.99, 271.62),
    ("moganet_s", "upernet"): (55.31, 946.39),
    ("moganet_b", "upernet"): (73.71, 1050.41),
    ("unireplknet_t", "cascade"): (88.45, 749.23),
    ("unireplknet_t", "upernet"): (61.76, 946.38),
    ("convnext_t", "cascade"): (85.93, 740.69),
    ("convnext_t", "maskrcnn"): (48.10, 262.11),
    ("convnext_t", "upernet"): (60.24, 938.68),
    ("overlock_t", "cascade"): (90.17, 760.48),
    ("overlock_s", "cascade"): (112.88, 845.30),
    ("overlock_b", "cascade"): (151.72, 989.75),
    ("overlock_t", "maskrcnn"): (52.33, 281.90),
    ("overlock_s", "maskrcnn"): (75.04, 366.72),
    ("overlock_b", "maskrcnn"): (113.89, 511.17),
    ("overlock_t", "upernet"): (63.31, 957.22),
    ("overlock_s", "upernet"): (86.18, 1044.15),
    ("overlock_b", "upernet"): (125.66, 1192.82),
}


@functools.cache
def cost_of(name: str, head: str, form: str = "deploy") -> DenseCost:
    with torch.device("meta"):
        model = build_dense(name, head, form)
    return dense_cost(model, SIZES[task_of(head)])


@pytest.mark.parametrize(("name", "head"), COUNTED)
def test_parameters_of_the_released_configurations(name: str, head: str) -> None:
    assert round(cost_of(name, head).params / 1e6, 2) == COUNTED[name, head][0]


@pytest.mark.parametrize(("name", "head"), COUNTED)
def test_macs_of_the_released_configurations(name: str, head: str) -> None:
    """By the convention of published figures: to the last digit, rows being rounded to 1e7; OverLoCK's within 1.5e7."""
    within = 1.5e7 if name.startswith("overlock") else 0.5e7
    assert cost_of(name, head).module_macs == pytest.approx(COUNTED[name, head][1] * 1e9, abs=within)


def test_contmix_s_projection_by_hand() -> None:
    """OverLoCK-T's at 512x2048: 12 blocks of 8 heads, 32x128 tokens, 194 taps, and 2 of 16 heads, 16x64, 74."""
    backbone = cost_of("overlock_t", "upernet").parts[0]
    projection = 12 * 8 * 32 * 128 * 194 * 50 + 2 * 16 * 16 * 64 * 74 * 50
    assert projection == pytest.approx(3.936e9, rel=1e-3)
    with torch.device("meta"):
        model = build_dense("overlock_t", "upernet").backbone
    unseen = norms_and_pools = 0

    def add(module: nn.Module, inputs: tuple[torch.Tensor], out: torch.Tensor) -> None:
        nonlocal unseen
        unseen += 10 * out.numel()  # 3x3 and the bias

    def add_other(module: nn.Module, inputs: tuple[torch.Tensor], out: torch.Tensor) -> None:
        nonlocal norms_and_pools
        norms_and_pools += 2 * out.numel() if isinstance(module, nn.BatchNorm2d) else inputs[0].numel()

    biases = 0

    def add_bias(module: nn.Conv2d, inputs: tuple[torch.Tensor], out: torch.Tensor) -> None:
        nonlocal biases
        biases += out.numel() if module.bias is not None else 0

    for name, module in model.named_modules():
        if isinstance(module, ResDWConv):
            module.register_forward_hook(add)
        if isinstance(module, nn.BatchNorm2d | nn.AdaptiveAvgPool2d):
            module.register_forward_hook(add_other)
        if isinstance(module, nn.Conv2d) and not name.endswith("weight_proj"):  # the operator does its work
            module.register_forward_hook(add_bias)
    with torch.no_grad():
        model(torch.empty(1, 3, 512, 2048, device="meta"))
    assert backbone.module_macs == backbone.macs + biases + projection + norms_and_pools - unseen


def test_roi_heads_are_the_same_for_every_backbone() -> None:
    roi = {cost_of(name, "cascade").parts[2] for name in ("convnext_t", "moganet_s")}
    assert len(roi) == 1
    cost = cost_of("convnext_t", "cascade")
    assert [part.name for part in cost.parts] == ["backbone", "neck + RPN", "RoI heads"]
    assert cost.parts[2].macs / cost.macs == pytest.approx(0.74, abs=0.005)
    two_fc = cost_of("convnext_t", "cascade_2fc")
    assert two_fc.parts[2].macs / two_fc.macs == pytest.approx(0.51, abs=0.005)


def test_fc_layers_by_hand() -> None:
    (roi,) = [part for part in cost_of("convnext_t", "maskrcnn").parts if part.name == "RoI heads"]
    boxes = 1000 * (256 * 49 * 1024 + 1024 * 1024 + 1024 * (81 + 320))
    masks = 100 * (4 * 196 * 9 * 256 * 256 + 196 * 4 * 256 * 256 + 784 * 256 * 80)
    assert roi.macs == boxes + masks


def test_auxiliary_head_counts_in_parameters_only() -> None:
    (auxiliary,) = [part for part in cost_of("convnext_t", "upernet").parts if part.name == "auxiliary"]
    assert auxiliary.params == 384 * 256 * 9 + 2 * 256 + 256 * 150 + 150
    assert auxiliary.macs == 0


def test_training_form_costs_more_where_there_is_one() -> None:
    assert cost_of("unireplknet_t", "upernet", "train").params > cost_of("unireplknet_t", "upernet").params
    assert cost_of("moganet_s", "upernet", "train") == cost_of("moganet_s", "upernet")
