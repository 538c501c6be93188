"""Layers that are adapted, parametrised, pruned or hooked act in a network, and are never folded away unseen."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from overlock import OverLoCK, deploy
from tests.golden_tools import image, relative_error
from tests.overlock.tools import tiny


class Lora(nn.Module):
    """A convolution with an adapter beside it, built as those of the library peft."""

    def __init__(self, base: nn.Conv2d, rank: int = 2) -> None:
        super().__init__()
        self.base_layer = base
        self.lora_A = nn.Conv2d(base.in_channels, rank, 1, bias=False).to(base.weight)
        self.lora_B = nn.Conv2d(rank, base.out_channels, 1, bias=False).to(base.weight)

    @property
    def weight(self) -> Tensor:
        return self.base_layer.weight

    @property
    def bias(self) -> Tensor | None:
        return self.base_layer.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.lora_B(self.lora_A(x))

    def merged(self) -> nn.Conv2d:
        conv = copy.deepcopy(self.base_layer)
        conv.weight.data += (self.lora_B.weight[:, :, 0, 0] @ self.lora_A.weight[:, :, 0, 0])[:, :, None, None]
        return conv


PROJECTION = "sub_blocks3.1.weight_proj"
BRANCH = "blocks1.0.proj.1.dil_conv_k5_1"
POINT = "blocks2.0.proj.4"


def wrapped(name: str = PROJECTION) -> tuple[OverLoCK, Lora]:
    torch.manual_seed(0)
    model = tiny().double().eval()
    layer = Lora(model.get_submodule(name))  # type: ignore[arg-type]
    model.set_submodule(name, layer)
    return model, layer


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_adapter_of_the_projection_acts_and_learns(dtype: torch.dtype, backend: str) -> None:
    model, layer = wrapped()
    model.to(dtype).requires_grad_(False)
    for module in model.modules():
        if hasattr(module, "backend"):
            module.backend = backend  # type: ignore[assignment]
    x = image(1, (2, 3, 64, 64), dtype)
    for p in (layer.lora_A.weight, layer.lora_B.weight):
        p.requires_grad_(True)
    got = model(x)
    got.square().sum().backward()
    assert layer.lora_A.weight.grad is not None
    assert layer.lora_B.weight.grad is not None
    assert layer.lora_A.weight.grad.abs().max() > 0
    assert layer.lora_B.weight.grad.abs().max() > 0
    bare, merged = copy.deepcopy(model), copy.deepcopy(model)
    bare.set_submodule(PROJECTION, layer.base_layer)
    merged.set_submodule(PROJECTION, layer.merged())
    with torch.no_grad():
        assert relative_error(got, merged(x)) < (1e-5 if dtype == torch.float32 else 1e-12)
        assert not torch.equal(bare(x), merged(x))


def test_a_projection_that_is_not_linear_is_refused() -> None:
    model, layer = wrapped()
    layer.lora_A.register_forward_hook(lambda _m, _i, out: out.square())
    with pytest.raises(ValueError, match=r"weight_proj is a .*Lora, and is not linear"):
        model(image(1, (1, 3, 64, 64)))


def test_a_parametrised_projection_learns() -> None:
    model = tiny().double()
    projection = parametrizations.weight_norm(model.get_submodule(PROJECTION))
    out: Any = model(image(1, (2, 3, 64, 64)))
    out.square().sum().backward()
    assert all(p.grad is not None for p in projection.parameters())


@pytest.mark.parametrize("name", [PROJECTION, BRANCH, "blocks1.0.proj.1.lk_origin"])
def test_hooks_are_called_and_pruning_acts(name: str) -> None:
    model, x, seen = tiny().double(), image(1, (2, 3, 64, 64)), []
    layer: Any = model.get_submodule(name)
    prune.l1_unstructured(layer, "weight", amount=0.9)
    layer.register_forward_hook(lambda *_: seen.append("forward"))
    layer.register_full_backward_hook(lambda *_: seen.append("backward"))
    out: Any = model(x)
    out.square().sum().backward()
    assert seen == ["forward", "backward"]
    layer.weight_mask.zero_()
    again: Any = model(x)
    assert not torch.equal(out, again)


def weight_normed(layer: Any) -> None:
    parametrizations.weight_norm(layer)


def pruned(layer: Any) -> None:
    prune.identity(layer, "weight")


def hooked(layer: Any) -> None:
    layer.register_forward_hook(lambda *_: None)


def replaced(layer: Any) -> None:
    layer.forward = F.relu


@pytest.mark.parametrize("change", [weight_normed, pruned, hooked, replaced])
@pytest.mark.parametrize("name", [PROJECTION, BRANCH, POINT, "head.0", "high_level_proj", "blocks1.0.proj.2"])
def test_deploy_refuses_a_changed_layer_by_name(name: str, change: Callable[[Any], None]) -> None:
    model = tiny()
    change(model.get_submodule(name))
    with pytest.raises(ValueError, match=rf"^{name} (is a|has) .*merge adapters"):
        deploy(model)


@pytest.mark.parametrize("name", [PROJECTION, POINT, "high_level_proj"])
def test_deploy_refuses_an_adapter_and_takes_it_merged(name: str) -> None:
    model, layer = wrapped(name)
    with pytest.raises(ValueError, match=rf"^{name} is a .*Lora"):
        deploy(model)
    x = image(1, (1, 3, 64, 64))
    with torch.inference_mode():
        wanted = model(x)
        model.set_submodule(name, layer.merged())
        assert relative_error(deploy(model)(x), wanted) < 1e-10


@pytest.mark.parametrize(
    ("name", "layer", "message"),
    [
        ("blocks1.0.proj.5", nn.ReLU(), "ReLU, ResDWConv.*what is folded is"),
        ("sub_blocks3.0.mlp.1", nn.GELU(approximate="tanh"), "what is folded is the exact GELU"),
        ("blocks1.0.proj.2", nn.BatchNorm2d(8, track_running_stats=False), "blocks1.0.proj.2 keeps no statistics"),
        ("patch_embed2.0", nn.Conv2d(8, 16, 3, stride=2, padding=1, padding_mode="reflect"), "only zeros beside"),
    ],
)
def test_deploy_refuses_what_it_does_not_fold(name: str, layer: nn.Module, message: str) -> None:
    model = tiny().eval()
    model.set_submodule(name, layer)
    with pytest.raises(ValueError, match=message):
        deploy(model)


def test_deploy_takes_synchronised_batch_norms() -> None:
    model = tiny().double().eval()
    x = image(1, (1, 3, 64, 64))
    with torch.inference_mode():
        wanted = model(x)
        assert relative_error(deploy(nn.SyncBatchNorm.convert_sync_batchnorm(model))(x), wanted) < 1e-10


def test_an_adapted_projection_compiles() -> None:
    model, _ = wrapped()
    projection: Any = model.sub_blocks3[1].projection
    compiled = torch.compile(projection, backend="eager", fullgraph=True)
    for got, wanted in zip(compiled(), projection(), strict=True):
        assert torch.equal(got, wanted)
