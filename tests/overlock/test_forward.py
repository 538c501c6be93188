"""OverLoCK at odd sizes, in every precision and memory layout (at common sizes: tests/test_every_model.py)."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from overlock import VARIANTS
from tests.golden_tools import image, relative_error
from tests.overlock.tools import SMALLEST, built, tiny


@pytest.fixture(scope="module", params=VARIANTS)
def model(request: pytest.FixtureRequest) -> nn.Module:
    """Each variant in turn; to look at, not to change."""
    return built(request.param, aux_head=True)


@pytest.mark.parametrize("size", [(h, w) for h in (32, 40, 63) for w in (33, 64, 95)])
def test_odd_sizes(size: tuple[int, int]) -> None:
    model = tiny().eval()
    with torch.inference_mode():
        features = model.forward_features(image(0, (1, 3, *size), torch.float32))
        assert features.shape[2:] == tuple(-(-n // 32) for n in size)
        assert features.isfinite().all()


def test_training_step_in_mixed_precision(model: nn.Module) -> None:
    """The smallest that trains: two images of 32x32, as BN needs two values a channel."""
    model = copy.deepcopy(model).train()
    with torch.autocast("cpu", torch.bfloat16):
        out = model(image(3, (2, 3, 32, 32), torch.float32))
    labels = torch.tensor([1, 2])
    loss = F.cross_entropy(out["main"].float(), labels) + 0.4 * F.cross_entropy(out["aux"].float(), labels)
    loss.backward()
    assert loss.isfinite()
    missing = {key for key, p in model.named_parameters() if p.grad is None}
    assert not missing
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert {p.grad.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("size", [(64, 96), (33, 47)])
def test_mixed_precision_gradients_are_near(size: tuple[int, int]) -> None:
    x = image(3, (4, 3, *size), torch.float32)
    gradients = []
    for enabled in (False, True):
        model = tiny(drop_path_rate=0.0).train()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            out = model(x)
        F.cross_entropy(out.float(), torch.arange(4)).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert F.cosine_similarity(gradients[0], gradients[1], dim=0) > 0.9


def test_bfloat16() -> None:
    model, x = built(SMALLEST), image(4, (1, 3, 96, 64), torch.float32)
    with torch.inference_mode():
        wanted = model(x)
        with torch.autocast("cpu", torch.bfloat16):
            assert relative_error(model(x), wanted) < 0.05  # a bfloat16 step is 1/256
        assert relative_error(model.bfloat16()(x.bfloat16()), wanted) < 0.1


@pytest.mark.parametrize("size", [(33, 47), (208, 224)])  # smaller than the kernels, and large enough
def test_memory_layout(size: tuple[int, int]) -> None:
    model, x = tiny().double().eval(), image(1, (2, 3, *size))
    with torch.inference_mode():
        wanted = model(x)
        wide = torch.zeros(2, 6, size[0], 2 * size[1], dtype=torch.float64)
        strided = wide[:, ::2, :, ::2].copy_(x)
        assert relative_error(model(strided), wanted) < 1e-12
        model.to(memory_format=torch.channels_last)
        assert relative_error(model(x.to(memory_format=torch.channels_last)), wanted) < 1e-12


def test_channels_last(model: nn.Module) -> None:
    x = image(1, (1, 3, 64, 64), torch.float32)
    again = copy.deepcopy(model).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        assert relative_error(again(x.to(memory_format=torch.channels_last)), model(x)) < 1e-5


def test_images_of_a_batch_do_not_mix() -> None:
    model, x = tiny().double().eval(), image(2, (3, 3, 64, 240))
    with torch.inference_mode():
        together = model(x)
        for i in range(3):
            assert relative_error(model(x[i : i + 1]), together[i : i + 1]) < 1e-12
