"""A deployed model is a model like others: copied, saved, cast, compiled, in any batch and layout; only not trained."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import baselines
from overlock import OverLoCK, OverLoCKPyramid, deploy, set_backend
from overlock.inference import blocks as inference
from overlock.inference.blocks import CACHED_SIZES, FoldedContMix, FoldedMLP
from overlock.pyramid import FORMS
from tests.golden_tools import fill, image, relative_error
from tests.overlock.tools import SMALLEST, built, tiny

SIZE = (72, 240)  # Focus-Net's maps are 5x15 and 3x8, smaller than the kernels
WHOLE = (224, 240)  # 14x15 and 7x8: they hold whole windows


def unireplknet(**kwargs: Any) -> Any:
    return fill(timm.create_model("unireplknet_a", **kwargs)).eval()


def pyramid(form: str) -> Any:
    return fill(OverLoCKPyramid(tiny(), form=form)).eval()


MODELS = {
    "overlock": lambda: tiny().eval(),
    "unireplknet": unireplknet,
    **{form: lambda form=form: pyramid(form) for form in FORMS},
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Any:
    """Of each kind that has a deploy form, a small one."""
    return MODELS[request.param]()


def outputs(model: nn.Module, x: Tensor) -> list[Tensor]:
    with torch.inference_mode():
        out = model(x)
    return out if isinstance(out, list) else [out]


def tiled(model: Any) -> Any:
    """With the implementation of ContMix that caches merged biases."""
    return set_backend(model, "tiled")


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def near(a: list[Tensor], b: list[Tensor], bound: float) -> bool:
    return all(relative_error(x, y) < bound for x, y in zip(a, b, strict=True))


def photo(size: tuple[int, int] = SIZE, batch: int = 2, dtype: torch.dtype = torch.float32) -> Tensor:
    return image(batch, (batch, 3, *size), dtype)


def other_weights(model: Any) -> Any:
    """The same network with other weights, of the same spread."""
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.flip(0))
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("training", [False, True])
def test_the_original_is_left_as_it_was(model: Any, dtype: torch.dtype, training: bool) -> None:
    model.to(dtype).train(training)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = {name: module.training for name, module in model.named_modules()}
    trained = {name: p.requires_grad for name, p in model.named_parameters()}
    deployed = deploy(model)
    outputs(deployed, photo(dtype=dtype))
    for tensor in deployed.state_dict().values():
        tensor.zero_()
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert {name: p.requires_grad for name, p in model.named_parameters()} == trained


def test_of_a_model_in_training_mode(model: Any) -> None:
    wanted = outputs(deploy(model), photo())
    deployed = deploy(model.train())
    assert not any(module.training for module in deployed.modules())
    assert same(outputs(deployed, photo()), wanted)


def test_training_is_refused(model: Any) -> None:
    deployed = deploy(model)
    with pytest.raises(ValueError, match=r"for inference.*train the"):
        deployed.train()
    assert not any(module.training for module in deployed.modules())
    assert deployed.eval() is deployed
    assert deployed.train(False) is deployed


def test_of_a_deployed_model(model: Any) -> None:
    deployed = deploy(model)
    again = deploy(deployed)
    wanted = outputs(deployed, photo())
    assert same(outputs(again, photo()), wanted)
    for tensor in again.state_dict().values():
        tensor.zero_()
    assert same(outputs(deployed, photo()), wanted)


@pytest.mark.parametrize("model", [nn.Linear(2, 2), timm.create_model("convnext_atto")], ids=["linear", "convnext"])
def test_without_such_a_form(model: nn.Module) -> None:
    with pytest.raises(ValueError, match=f"{type(model).__name__} has no deploy form"):
        deploy(model)


def through_a_file(thing: Any, **kwargs: Any) -> Any:
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return torch.load(file, **kwargs)


@pytest.mark.parametrize("ran", [False, True])
def test_copies(model: Any, ran: bool) -> None:
    deployed = deploy(model)
    wanted = outputs(deploy(model), photo())
    if ran:
        outputs(deployed, photo())
    for copied in (copy.deepcopy(deployed), through_a_file(deployed, weights_only=False)):
        assert not any(module._biases for module in copied.modules() if isinstance(module, FoldedContMix))
        assert same(outputs(copied, photo()), wanted)
        with pytest.raises(ValueError, match="for inference"):
            copied.train()
        assert near(outputs(copied.double(), photo(dtype=torch.float64)), wanted, 1e-5)
    assert same(outputs(deployed, photo()), wanted)


def test_state_dict(model: Any) -> None:
    deployed, other = deploy(model), deploy(other_weights(copy.deepcopy(model)))
    wanted = outputs(deployed, photo())
    assert not near(outputs(other, photo()), wanted, 1e-3)  # and its biases are cached now
    other.load_state_dict(through_a_file(deployed.state_dict(), weights_only=True), strict=True)
    assert same(outputs(other, photo()), wanted)


@pytest.mark.parametrize("size", [SIZE, WHOLE])
def test_cached_biases_follow_the_dtype(size: tuple[int, int]) -> None:
    deployed, fresh = tiled(deploy(tiny())), tiled(deploy(tiny())).double()
    outputs(deployed, photo(size))
    assert same(outputs(deployed.double(), photo(size, dtype=torch.float64)), outputs(fresh, photo(size).double()))
    assert near(outputs(deployed.float(), photo(size)), outputs(fresh, photo(size).double()), 1e-5)


def test_cached_biases_follow_the_weights() -> None:
    """Tables of positions alone: nothing else would show stale biases."""
    deployed, x = tiled(deploy(tiny())), photo(WHOLE)
    before = outputs(deployed, x)
    state = {key: value.flip(0) if "rpb" in key else value for key, value in deployed.state_dict().items()}
    fresh = tiled(deploy(tiny()))
    for model in (deployed, fresh):
        model.load_state_dict(state)
    assert same(outputs(deployed, x), outputs(fresh, x))
    assert not same(outputs(deployed, x), before)


def test_cached_biases_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    deployed = tiled(deploy(tiny()))
    sizes = [(224, 224 + 16 * i) for i in range(CACHED_SIZES + 2)]
    first = [outputs(deployed, photo(size)) for size in sizes]
    held = [module._biases for module in deployed.modules() if isinstance(module, FoldedContMix)]
    assert max(map(len, held)) == CACHED_SIZES
    assert all(same(outputs(deployed, photo(size)), out) for size, out in zip(sizes, first, strict=True))
    monkeypatch.setattr(inference, "CACHED_BYTES", 0)
    deployed = tiled(deploy(tiny()))
    assert same(outputs(deployed, photo(sizes[0])), first[0])
    assert not any(module._biases for module in deployed.modules() if isinstance(module, FoldedContMix))


@pytest.mark.parametrize("budget", [1, 150_000])  # bytes: one image at a time; some at a time, unevenly in stage 1
def test_a_few_images_at_a_time(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    deployed, x = deploy(tiny()), photo(batch=5)
    wanted = outputs(deployed, x)
    chunks: list[int] = []
    for module in deployed.modules():
        if isinstance(module, FoldedMLP):
            module.up.register_forward_pre_hook(lambda _m, inputs: chunks.append(len(inputs[0])))
    monkeypatch.setattr(inference, "HIDDEN_BYTES", budget)
    assert near(outputs(deployed, x), wanted, 1e-6)
    assert set(chunks) == {1} if budget == 1 else {1, 2} < set(chunks)


def test_batch_of_one(model: Any) -> None:
    deployed, x = deploy(model).double(), photo(batch=3, dtype=torch.float64)
    together = outputs(deployed, x)
    for i in range(3):
        assert near(outputs(deployed, x[i : i + 1]), [out[i : i + 1] for out in together], 1e-12)


@pytest.mark.parametrize("size", [SIZE, WHOLE])
def test_memory_layout(model: Any, size: tuple[int, int]) -> None:
    deployed, x = deploy(model), photo(size)
    wanted = outputs(deployed, x)
    wide = torch.zeros(2, 6, size[0], 2 * size[1])
    for again in (x.to(memory_format=torch.channels_last), wide[:, ::2, :, ::2].copy_(x)):
        assert near(outputs(deployed, again), wanted, 1e-6)
    deployed.to(memory_format=torch.channels_last)
    assert near(outputs(deployed, x.to(memory_format=torch.channels_last)), wanted, 1e-6)


def test_the_input_is_left_as_it_was(model: Any) -> None:
    deployed, x = deploy(model), photo().to(memory_format=torch.channels_last)
    before = x.clone()
    outputs(deployed, x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", [SMALLEST, "overlock_t"])
def test_bfloat16(name: str) -> None:
    """As near as the training form in bfloat16 (one step of it is 1/256), twice over."""
    model, x = built(name), photo((96, 64))
    deployed = deploy(model)
    wanted = outputs(model, x)
    with torch.autocast("cpu", torch.bfloat16):
        assert near(outputs(deployed, x), wanted, 0.05)
    for cast in (deployed.bfloat16(), deploy(model.bfloat16())):
        out = outputs(cast, x.bfloat16())
        assert out[0].dtype == torch.bfloat16
        assert near(out, wanted, 0.1)


def test_bfloat16_holds_weights_in_bfloat16() -> None:
    tensors = deploy(tiny().bfloat16()).state_dict().values()
    assert {tensor.dtype for tensor in tensors} == {torch.bfloat16}


@pytest.mark.parametrize("size", [SIZE, WHOLE])
def test_compile(size: tuple[int, int]) -> None:
    deployed = deploy(tiny())
    wanted = outputs(deploy(tiny()), photo(size))
    compiled = torch.compile(deployed, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        assert near(outputs(compiled, photo(size)), wanted, 1e-6)
    assert near(outputs(deployed, photo(size)), wanted, 1e-6)


@pytest.mark.parametrize("ran", [False, True])
def test_export(ran: bool) -> None:
    deployed, x = deploy(tiny()), photo(WHOLE)
    wanted = outputs(deploy(tiny()), x)
    if ran:
        outputs(deployed, x)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(deployed, (x,), dynamic_shapes=({0: batch},))
    assert near(outputs(program.module(), x), wanted, 1e-6)
    five = photo(WHOLE, batch=5)
    assert near(outputs(program.module(), five), outputs(deployed, five), 1e-6)
    assert same(outputs(deployed, x), wanted)


def test_repr_names_the_parts() -> None:
    assert "FoldedContMix" in repr(deploy(tiny()))
    assert isinstance(deploy(tiny()), OverLoCK)
    assert isinstance(deploy(pyramid("detection")), OverLoCKPyramid)
    assert isinstance(deploy(unireplknet()), baselines.unireplknet.UniRepLKNet)
