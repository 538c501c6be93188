"""OverLoCK's layers against their formulas, and the merged form of the large kernels."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overlock import VARIANTS
from overlock.layers import (
    BRANCHES,
    GRN,
    SE,
    DilatedReparam,
    LayerNorm2d,
    LayerScale,
    ResDWConv,
    dilate_kernel,
    fuse_conv_bn,
    global_response,
)
from overlock.model import KERNEL_SIZES
from tests.golden_tools import fill, golden, image, relative_error
from tests.overlock.tools import built, on_meta

BOUNDS = {torch.float64: 1e-10, torch.float32: 1e-5}  # largest difference over largest value


def merged_state(layer: DilatedReparam) -> dict[str, Tensor]:
    weight, bias = layer.merged_kernel()
    return {"lk_origin.weight": weight.detach(), "lk_origin.bias": bias.detach()}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("kernel_size", BRANCHES)
def test_branches_fit_into_the_kernel(kernel_size: int) -> None:
    for k, r in BRANCHES[kernel_size]:
        assert k % 2 == 1
        assert r * (k - 1) + 1 <= kernel_size


@pytest.mark.parametrize(("k", "dilation", "kernel_size"), [(3, 7, 17), (9, 2, 17), (7, 1, 13), (3, 5, 13), (3, 3, 7)])
def test_dilated_kernel(k: int, dilation: int, kernel_size: int) -> None:
    x, weight = random(1, 4, 19, 23), random(4, 1, k, k, seed=1)
    wanted = F.conv2d(x, weight, padding=dilation * (k - 1) // 2, dilation=dilation, groups=4)
    got = F.conv2d(x, dilate_kernel(weight, dilation, kernel_size), padding=kernel_size // 2, groups=4)
    assert relative_error(got, wanted) < 1e-14


@pytest.mark.parametrize("bias", [False, True])
def test_bn_folds_into_the_convolution_before_it(bias: bool) -> None:
    net = fill(nn.Sequential(nn.Conv2d(6, 8, 3, bias=bias), nn.BatchNorm2d(8))).double().eval()
    x = random(2, 6, 9, 9)
    assert relative_error(F.conv2d(x, *fuse_conv_bn(net[0].weight, net[0].bias, net[1])), net(x)) < 1e-14


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("kernel_size", BRANCHES)
def test_merged_large_kernel(kernel_size: int, dtype: torch.dtype) -> None:
    layer = fill(DilatedReparam(8, kernel_size)).to(dtype).eval()
    x = random(2, 8, 20, 14).to(dtype)
    assert not layer.merged
    with torch.inference_mode():
        wanted = layer(x)
        again = DilatedReparam(8, kernel_size, deploy=True).to(dtype)
        again.load_state_dict(merged_state(layer))
        assert again.merged
        assert relative_error(again(x), wanted) < BOUNDS[dtype]
        assert all(map(torch.equal, again.merged_kernel(), layer.merged_kernel()))


def test_a_kernel_without_branch_table_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no branch table for a 21x21 kernel.*17"):
        DilatedReparam(8, 21)
    assert DilatedReparam(8, 21, branches=[(3, 2)])(torch.zeros(1, 8, 9, 9)).shape == (1, 8, 9, 9)


@pytest.mark.parametrize("name", VARIANTS)
def test_released_deploy_form(name: str) -> None:
    """Large kernels merged: the same outputs, and a state dict that `deploy=True` loads."""
    model, deployed = built(name), on_meta(name, deploy=True).eval()
    for dtype, bound in BOUNDS.items():
        model, x = model.to(dtype), image(5, (1, 3, 32, 64), dtype)
        merged = {key: value for key, value in model.state_dict().items() if "dil_" not in key and "origin" not in key}
        for key, layer in model.named_modules():
            if isinstance(layer, DilatedReparam):
                merged |= {f"{key}.{name}": value for name, value in merged_state(layer).items()}
        deployed.load_state_dict(merged, assign=True)
        with torch.inference_mode():
            assert relative_error(deployed(x), model(x)) < bound


def test_released_deploy_form_has_the_released_values() -> None:
    model = built("overlock_xt", "overlock_xt").double()
    large = {k: m for k, m in model.named_modules() if isinstance(m, DilatedReparam)}
    assert {m.kernel_size for m in large.values()} == set(KERNEL_SIZES)
    for key, layer in large.items():
        form = DilatedReparam(layer.lk_origin.in_channels, layer.kernel_size, deploy=True).double()
        form.load_state_dict(merged_state(layer))
        model.set_submodule(key, form)
    with torch.inference_mode():
        logits = model(image(0, (1, 3, 160, 192)))
    assert relative_error(logits, golden("overlock_xt")["logits_160x192"]) < 1e-9
    timm.create_model("overlock_xt", deploy=True).double().load_state_dict(model.state_dict())


def test_residual_depthwise_convolution() -> None:
    layer = fill(ResDWConv(6)).double()
    x = random(2, 6, 5, 9)
    assert layer.weight.shape == (6, 1, 3, 3)
    assert relative_error(layer(x), x + F.conv2d(x, layer.weight, layer.bias, padding=1, groups=6)) < 1e-15


def test_layer_norm_over_channels() -> None:
    layer = fill(LayerNorm2d(6)).double()
    x = random(2, 6, 5, 9) * 1e-3  # so that eps matters
    normed = (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    wanted = normed * layer.weight.view(-1, 1, 1) + layer.bias.view(-1, 1, 1)
    assert relative_error(layer(x), wanted) < 1e-12


@pytest.mark.parametrize(("channels", "inner"), [(64, 16), (256, 32)])
def test_squeeze_and_excitation(channels: int, inner: int) -> None:
    layer = fill(SE(channels)).double()
    x = random(2, channels, 5, 9)
    squeeze, excite = layer.proj[1], layer.proj[3]
    assert squeeze.weight.shape == (inner, channels, 1, 1)
    hidden = F.gelu(F.conv2d(x.mean((2, 3), keepdim=True), squeeze.weight, squeeze.bias))
    wanted = x * torch.sigmoid(F.conv2d(hidden, excite.weight, excite.bias))
    assert relative_error(layer(x), wanted) < 1e-14


def test_global_response_normalisation() -> None:
    layer = GRN(6).double()
    x = random(2, 6, 5, 9)
    assert torch.equal(layer(x), x), "it should start as the identity"
    fill(layer)
    norm = x.square().sum((2, 3), keepdim=True).sqrt()
    scale = norm / (norm.mean(1, keepdim=True) + 1e-6)
    assert relative_error(global_response(x), scale) < 1e-14
    assert relative_error(layer(x), (layer.gamma * scale + 1) * x + layer.beta) < 1e-14


def test_global_response_normalisation_of_an_empty_channel_has_a_gradient() -> None:
    layer = fill(GRN(6)).double()
    x = random(2, 6, 5, 9)
    x[:, 2] = 0
    x.requires_grad_()
    layer(x).square().sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_layer_scale() -> None:
    layer = LayerScale(6, 1e-5).double()
    x = random(2, 6, 5, 9)
    torch.testing.assert_close(layer(x), 1e-5 * x)
    fill(layer)
    assert layer.weight.shape == (6, 1, 1, 1)
    assert relative_error(layer(x), layer.weight.view(6, 1, 1) * x + layer.bias.view(6, 1, 1)) < 1e-15


@pytest.mark.parametrize(
    "build", [ResDWConv, LayerNorm2d, SE, GRN, LayerScale, lambda c: DilatedReparam(c, 7)], ids=lambda b: b.__name__
)
def test_any_memory_layout(build: type[nn.Module]) -> None:
    layer = fill(build(6)).double().eval()
    x = random(2, 6, 5, 9)
    wanted = layer(x)
    assert relative_error(layer(x.to(memory_format=torch.channels_last)), wanted) < 1e-14
    wider = random(2, 8, 5, 18, seed=3)
    wider[:, 1:7, :, ::2] = x
    assert relative_error(layer(wider[:, 1:7, :, ::2]), wanted) < 1e-14


@pytest.mark.parametrize("training", [True, False])
def test_a_sum_of_squares_beyond_float16(training: bool) -> None:
    """A map of 24 has a sum of squares of 451,584 a channel, where float16 ends at 65,504."""
    layer, x = fill(GRN(6)), random(2, 6, 28, 28) * 24
    half, wide = copy.deepcopy(layer).half(), layer.double()
    inputs = [x.detach().to(dtype).requires_grad_(training) for dtype in (torch.float16, torch.float64)]
    with torch.set_grad_enabled(training):
        outputs = [half(inputs[0]), wide(inputs[1])]
    assert outputs[0].dtype == torch.float16
    assert relative_error(outputs[0].double(), outputs[1]) < 2e-3
    assert relative_error(global_response(inputs[0]).double(), global_response(inputs[1])) < 2e-3
    if training:
        for out in outputs:
            (out / 32).sum().backward()
        assert inputs[0].grad is not None
        assert inputs[1].grad is not None
        assert relative_error(inputs[0].grad.double(), inputs[1].grad) < 5e-3
