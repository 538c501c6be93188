"""ContMix as a PyTorch operator: its registration, derivatives, cost, and what compile and export make of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.library import opcheck
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from overlock import set_backend
from overlock.contmix import BACKENDS, Inputs, contmix, contmix_macs, contmix_merged, merge_biases
from tests.golden_tools import image, relative_error
from tests.overlock.contmix.cases import SCALE, Case, relative_rms, skip_if_unable, truth, widest
from tests.overlock.tools import tiny

HERE = [name for name in BACKENDS if name != "fused"]  # `fused` is in test_triton.py
ALL = [*HERE, "auto"]
SMALL = Case(6, 5, 5, small=3, regions=2, batch=1)
TINY = Case(4, 3, 3, small=1, regions=2, query_channels=1, value_channels=1)
CASES = [
    Case(9, 8, 7),
    Case(13, 14, 13, batch=1),
    Case(7, 7, 7, batch=1, heads=1, query_channels=1, value_channels=1),
    SMALL,
]


def laid_out(tensors: Sequence[Tensor], channels_last: bool) -> list[Tensor]:
    if not channels_last:
        return list(tensors)
    return [
        x.detach().contiguous(memory_format=torch.channels_last).requires_grad_(x.requires_grad) if x.dim() == 4 else x
        for x in tensors
    ]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("backend", ALL)
def test_operator_is_registered_right(backend: str, case: Case, channels_last: bool) -> None:
    # the definition is differentiated by autograd, outside the operator
    inputs = laid_out(case.inputs(widest(backend), requires_grad=backend != "reference"), channels_last)
    skip_if_unable(backend, inputs[2])
    opcheck(torch.ops.overlock.contmix.default, (*inputs, SCALE, backend))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("backend", [name for name in ALL if name != "reference"])  # it wraps tensors for autograd
def test_backward_operator_is_registered_right(backend: str, case: Case, channels_last: bool) -> None:
    dtype = widest(backend)
    inputs = laid_out([case.output_gradient(dtype), *case.inputs(dtype)], channels_last)
    skip_if_unable(backend, inputs[3])
    opcheck(torch.ops.overlock.contmix_backward.default, (*inputs, SCALE, backend))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_merged_operator_is_registered_right(case: Case) -> None:
    *maps, proj_bias, rpb1, rpb2 = case.inputs()
    biases = merge_biases(proj_bias, rpb1, rpb2, case.height, case.width)
    opcheck(torch.ops.overlock.contmix_merged.default, (*maps, *biases, SCALE))


@pytest.mark.parametrize("case", [SMALL, TINY], ids=str)
@pytest.mark.parametrize("backend", ALL)
def test_gradients_against_differences(backend: str, case: Case) -> None:
    inputs = case.inputs(requires_grad=True)
    skip_if_unable(backend, inputs.value)  # in float64, or not at all
    assert torch.autograd.gradcheck(lambda *tensors: contmix(*tensors, SCALE, backend), tuple(inputs))


@pytest.mark.parametrize("backend", HERE)
def test_every_backend_has_a_backward(backend: str) -> None:
    """Called directly, as the protocol has it, and by the operator."""
    case, dtype = Case(9, 8, 7), widest(backend)
    inputs, grad = case.inputs(dtype), case.output_gradient(dtype)
    skip_if_unable(backend, inputs.value)
    called = BACKENDS[backend].backward(grad, inputs, SCALE)
    assert isinstance(called, Inputs)
    for gradients in (called, torch.ops.overlock.contmix_backward(grad, *inputs, SCALE, backend)):
        for name, gradient in zip(Inputs._fields, gradients, strict=True):
            assert relative_rms(gradient, truth(case, dtype)[name]) < 2e-6, name


def test_a_second_derivative_is_refused() -> None:
    inputs = SMALL.inputs(requires_grad=True)
    (gradient,) = torch.autograd.grad(contmix(*inputs, SCALE).square().sum(), inputs[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula was registered"):
        gradient.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", ALL)
def test_meta_device(backend: str, dtype: torch.dtype) -> None:
    case = Case(9, 8, 7)
    seen = []
    for device in ("cpu", "meta"):
        inputs = [x.detach().to(device).requires_grad_() for x in case.inputs(dtype)]
        out = contmix(*inputs, SCALE, backend)
        out.backward(torch.empty_like(out))
        if backend != "reference":  # whose steps autograd follows, outside the operator
            assert out.is_contiguous(memory_format=torch.channels_last)
        seen.append([(x.shape, x.dtype) for x in (out, *(x.grad for x in inputs))])
    assert seen[0] == seen[1]


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("backend", ALL)
def test_cost_is_that_of_the_definition(backend: str, device: str, gradient: bool) -> None:
    case = Case(9, 8, 7, value_channels=2)
    inputs = [x.detach().to(device).requires_grad_(gradient) for x in case.inputs(torch.float32)]
    macs = contmix_macs(*case.shapes()[:3], *case.shapes()[5:])
    tokens, taps = 2 * 2 * 72, 25 + 49  # of 2 images and 2 heads
    assert macs == {
        "affinity": tokens * 49 * 3,
        "projection": tokens * 49 * taps,
        "aggregation": tokens * taps * 2,
    }
    with FlopCounterMode(display=False) as counter:
        out = contmix(*inputs, SCALE, backend)
    assert counter.get_total_flops() == 2 * sum(macs.values())
    if gradient:
        with FlopCounterMode(display=False) as counter:
            out.backward(torch.empty_like(out))
        assert counter.get_total_flops() == 4 * sum(macs.values())


def test_merged_form_counts_the_same() -> None:
    case = Case(9, 8, 7)
    *maps, proj_bias, rpb1, rpb2 = case.inputs(torch.float32)
    biases = merge_biases(proj_bias, rpb1, rpb2, case.height, case.width)
    for device in ("cpu", "meta"):
        with FlopCounterMode(display=False) as counter:
            contmix_merged(*(x.to(device) for x in (*maps, *biases)), SCALE)
        macs = contmix_macs(*case.shapes()[:3], *case.shapes()[5:])
        assert counter.get_total_flops() == 2 * sum(macs.values())


class Sizes(TorchDispatchMode):
    """Notes the shape of everything that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.shapes += [tuple(x.shape) for x in (out if isinstance(out, tuple | list) else [out]) if torch.is_tensor(x)]
        return out


def test_tiled_makes_neither_affinities_nor_copies_of_windows() -> None:
    case = Case(40, 48, 13, batch=1, heads=4, query_channels=16, value_channels=16, regions=6)
    inputs, tokens = case.inputs(torch.float32), 40 * 48
    windows = tokens * 13 * 13 * case.heads * case.value_channels
    for run in (
        lambda: BACKENDS["tiled"].forward(inputs, SCALE),
        lambda: BACKENDS["tiled"].backward(case.output_gradient(torch.float32), inputs, SCALE),
    ):
        with Sizes() as made:
            run()
        assert not any(36 in shape and math.prod(shape) >= tokens * 36 for shape in made.shapes)
        assert max(map(math.prod, made.shapes)) < windows / 4
    with Sizes() as made:  # what this test would see otherwise
        BACKENDS["reference"].forward(inputs, SCALE)
    assert any(36 in shape and math.prod(shape) >= tokens * 36 for shape in made.shapes)
    assert max(map(math.prod, made.shapes)) == windows


@pytest.mark.parametrize("backend", HERE)
def test_compiled_inference(backend: str) -> None:
    model = set_backend(tiny().eval(), backend)
    x = image(0, (2, 3, 64, 96), torch.float32)
    with torch.inference_mode():
        assert relative_error(torch.compile(model, fullgraph=True, backend="eager")(x), model(x)) < 1e-6


def test_compiled_training() -> None:
    model = tiny(aux_head=True).train()
    x = image(0, (2, 3, 64, 96), torch.float32)
    gradients = []
    for run in (model, torch.compile(model, fullgraph=True, backend="aot_eager")):
        model.zero_grad()
        out = run(x)
        (out["main"].square().sum() + out["aux"].square().sum()).backward()
        gradients.append({key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() == dict(model.named_parameters()).keys()
    largest = max(g.abs().max() for g in gradients[0].values())
    for key, wanted in gradients[0].items():
        assert (gradients[1][key] - wanted).abs().max() < 1e-5 * largest, key


def test_export_with_dynamic_batch(tmp_path: Path) -> None:
    model = tiny().eval()
    x = image(0, (2, 3, 64, 96), torch.float32)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=2, max=64)},))
    called = {str(node.target) for node in program.graph.nodes}
    assert "overlock.contmix.default" in called
    torch.export.save(program, tmp_path / "tiny.pt2")
    again = torch.export.load(tmp_path / "tiny.pt2").module()
    x = image(1, (5, 3, 64, 96), torch.float32)
    with torch.inference_mode():
        assert relative_error(again(x), model(x)) < 1e-6


@pytest.mark.parametrize("backend", ALL)
def test_set_backend(backend: str) -> None:
    model = set_backend(tiny(), backend)
    assert {block.backend for block in (*model.sub_blocks3, *model.sub_blocks4)} == {backend}


def test_set_backend_refuses_an_unknown_name() -> None:
    with pytest.raises(ValueError, match="unknown ContMix backend 'fastest': choose one of auto, reference"):
        set_backend(tiny(), "fastest")
