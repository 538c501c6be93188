"""MogaNet: parity with the released models and the state dicts' contract."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from baselines.moganet import VARIANTS
from tests.golden_tools import fill, golden, image, manifest, relative_error

RELEASED = {
    "moganet_xt": "moganet_xtiny",
    "moganet_t": "moganet_tiny",
    "moganet_s": "moganet_small",
    "moganet_b": "moganet_base",
    "moganet_l": "moganet_large",
    "moganet_xl": "moganet_xlarge",
}


def on_meta(name: str, **kwargs: object) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name, **kwargs)


@pytest.fixture(scope="module", params=["moganet_xt", "moganet_s"])
def released(request: pytest.FixtureRequest) -> tuple[str, nn.Module]:
    name = RELEASED[request.param]
    return name, fill(timm.create_model(request.param), name).eval().double()


@pytest.mark.parametrize(
    ("key", "shape"), [("224", (2, 3, 224, 224)), ("160x192", (1, 3, 160, 192)), ("384", (1, 3, 384, 384))]
)
def test_parity(released: tuple[str, nn.Module], key: str, shape: tuple[int, ...]) -> None:
    name, model = released
    wanted = golden(name)[f"logits_{key}"]
    with torch.inference_mode():
        logits = model(image(0, shape))
    assert relative_error(logits, wanted) < 1e-9
    if len(logits) == 2:  # the images' logits are near each other: check what sets them apart
        assert relative_error(logits[0] - logits[1], wanted[0] - wanted[1]) < 1e-9


@pytest.mark.parametrize("name", VARIANTS)
def test_state_dict_contract(name: str) -> None:
    got = {key: tuple(value.shape) for key, value in on_meta(name).state_dict().items()}
    assert list(got.items()) == list(manifest(RELEASED[name]).items())


@pytest.mark.parametrize("name", VARIANTS)
def test_pyramid_state_dict_contract(name: str) -> None:
    got = {key: tuple(value.shape) for key, value in on_meta(name, features_only=True).state_dict().items()}
    assert got == {key: shape for key, shape in manifest(RELEASED[name]).items() if not key.startswith("head.")}


def test_pyramid_is_the_normalised_path() -> None:
    model = fill(timm.create_model("moganet_xt")).double().eval()
    net = timm.create_model("moganet_xt", features_only=True).double().eval()
    net.load_state_dict({key: value for key, value in model.state_dict().items() if not key.startswith("head.")})
    taken = {}
    for i in range(1, 5):
        model.get_submodule(f"norm{i}").register_forward_hook(lambda _m, _x, y, i=i: taken.setdefault(i, y))
    x = image(7, (1, 3, 72, 104))
    with torch.inference_mode():
        last = model.forward_features(x)
        maps = net(x)
    assert all(torch.equal(got, taken[i]) for i, got in enumerate(maps, 1))
    assert torch.equal(maps[-1], last)
