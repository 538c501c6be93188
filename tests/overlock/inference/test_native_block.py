"""Folded blocks by one C call, against the same blocks operator by operator in float64."""

from __future__ import annotations

import copy
import ctypes
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overlock import native, set_backend
from overlock.blocks import DynamicConvBlock, RepConvBlock
from overlock.fusion import fused
from overlock.inference import native_block
from overlock.inference.native_block import Packing
from overlock.tracing import separate_operators
from tests.golden_tools import fill
from tests.overlock import isas
from tests.overlock.contmix.cases import relative_rms

pytestmark = pytest.mark.skipif(native.why_not() is not None, reason=str(native.why_not()))

BOUNDS = {torch.float32: 5e-7, torch.bfloat16: 2e-2}
BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "rep, scaled": lambda: RepConvBlock(48, 7, layer_scale=True),
    "rep, odd channels": lambda: RepConvBlock(20, 17, mlp_ratio=3),
    "dynamic": lambda: DynamicConvBlock(32, 16, 7, 2, mixes_prior=False),
    "dynamic, mixing": lambda: DynamicConvBlock(48, 20, 5, 3),
}
MAPS = [(1, 7, 9), (2, 14, 14), (3, 8, 11), (8, 10, 10), (5, 7, 33)]
"""Images, height, width: together, and, of 100 tokens and more, an image a thread."""


def folded(name: str, dtype: torch.dtype = torch.float32) -> Any:
    return fused(fill(BLOCKS[name]()).eval()).to(dtype)


def maps_for(block: Any, size: tuple[int, int, int], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(sum(size))
    batch, height, width = size
    channels = (
        [block.dwconv.weight.shape[0]] if hasattr(block, "large") else [sum(block.contmix.dims), block.contmix.dims[1]]
    )
    maps = [torch.randn(batch, c, height, width, generator=generator) for c in channels]
    return [x.to(dtype).contiguous(memory_format=torch.channels_last) for x in maps]


def truth(block: Any, maps: list[Tensor]) -> Tensor:
    with torch.no_grad():
        return copy.deepcopy(block).double()(*[x.double() for x in maps])


def run(block: Any, maps: list[Tensor]) -> Tensor:
    """By one call, which must be what happens."""
    one = native_block.rep_conv_block if hasattr(block, "large") else native_block.dynamic_conv_block
    with torch.no_grad():
        out = one(block, *maps)  # type: ignore[operator]
        assert out is not None
        assert torch.equal(out, block(*[x.clone() for x in maps]))
    return out


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("size", MAPS, ids=str)
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("isa", isas.HERE)
def test_against_operators_in_float64(
    isa: str, name: str, dtype: torch.dtype, size: tuple[int, int, int], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    isas.compile_for(isa, monkeypatch)
    block = folded(name, dtype)
    maps = maps_for(block, size, dtype)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        out = run(block, maps)
    finally:
        torch.set_num_threads(before)
    assert out.dtype == dtype
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert relative_rms(out, truth(block, maps)) < BOUNDS[dtype]


def test_an_image_is_the_same_beside_others() -> None:
    block = folded("dynamic, mixing")
    maps = maps_for(block, (8, 14, 14))
    alone = torch.cat([run(block, [x[i : i + 1] for x in maps]) for i in range(8)])
    assert relative_rms(run(block, maps), alone.double()) < 3e-7


class _Product(ctypes.Structure):
    """`Product` of product.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "out", "weights", "bias")),
        *((name, ctypes.c_long) for name in ("rows", "stride", "step", "inputs", "outputs")),
        *((name, ctypes.c_int) for name in ("then", "bf16", "threads")),
    )


GELU = 1
THEN: list[Callable[[Tensor, Tensor], Tensor]] = [
    lambda y, before: y,
    lambda y, before: F.gelu(y),
    lambda y, before: F.silu(y),
    lambda y, before: y + before,
]


@pytest.mark.parametrize("then", range(4))
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("isa", isas.HERE)
def test_products(isa: str, dtype: torch.dtype, then: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of any numbers of rows, inputs and outputs, among more inputs, and nothing beyond them is written."""
    isas.compile_for(isa, monkeypatch)
    generator = torch.Generator().manual_seed(then)
    for rows, inputs, outputs in ((1, 1, 1), (5, 20, 17), (33, 64, 48), (20, 32, 32), (47, 100, 70), (300, 96, 40)):
        x, before = (torch.randn(rows, n, generator=generator).to(dtype) for n in (inputs + 3, outputs))
        weight = (torch.randn(outputs, inputs, generator=generator) / inputs**0.5).to(dtype)
        bias = torch.randn(outputs, generator=generator)
        packing = Packing()
        memory = torch.cat([before.flatten(), torch.full((64,), 7.0, dtype=dtype)])
        product = _Product(
            x.data_ptr(), memory.data_ptr(), packing.matrix(weight, dtype == torch.bfloat16), bias.data_ptr(),
            rows, inputs + 3, 1, inputs, outputs, then, dtype == torch.bfloat16, 2,
        )  # fmt: skip
        native.call("product", ctypes.byref(product))
        out, beyond = memory[:-64].view(rows, outputs), memory[-64:]
        wanted = THEN[then](x[:, :inputs].double() @ weight.double().t() + bias.double(), before.double())
        bound = 4e-3 if dtype == torch.bfloat16 else 2e-6 if then == GELU else 4e-7
        assert relative_rms(out, wanted) < bound
        assert (beyond == 7).all()


@pytest.mark.parametrize("isa", isas.HERE)
def test_gelu_and_silu_of_every_size(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    isas.compile_for(isa, monkeypatch)
    x = torch.cat([torch.linspace(-30, 30, 60001), torch.tensor([1e30, -1e30, 1e-30, 0.0, torch.inf, torch.nan])])
    one = torch.ones(1, 1)
    for then, activation in ((1, F.gelu), (2, F.silu)):
        out = torch.empty_like(x)
        packing = Packing()
        product = _Product(
            x.data_ptr(), out.data_ptr(), packing.matrix(one, False), None, len(x), 1, 1, 1, 1, then, False, 2
        )
        native.call("product", ctypes.byref(product))
        wanted = activation(x.double())
        finite = wanted.isfinite()
        error = (out[finite] - wanted[finite]).abs()
        assert (error <= 1.2e-6 + 2e-7 * wanted[finite].abs()).all()
        assert torch.equal(out[~finite].nan_to_num(3), wanted[~finite].float().nan_to_num(3))


def doubled(module: nn.Module) -> nn.Module:
    other = copy.deepcopy(module)
    for p in other.parameters():
        p.mul_(2)
    return other


EDITS: dict[str, Callable[[Any], Any]] = {
    "in place": lambda block: block.mlp.up.weight.mul_(2),
    "one element": lambda block: block.mlp.up.weight[1, 3].add_(5),
    "all by .data": lambda block: block.mlp.up.weight.data.mul_(2),
    "another .data": lambda block: setattr(block.large.weight, "data", block.large.weight.data * 2),
    "another parameter": lambda block: setattr(block.large, "weight", nn.Parameter(2 * block.large.weight, False)),
    "another module": lambda block: setattr(block, "large", doubled(block.large)),
    "a bias": lambda block: block.norm.bias.add_(1),
    "loaded": lambda block: block.load_state_dict({name: p + 0.1 for name, p in block.state_dict().items()}),
    "cast and back": lambda block: block.to(torch.bfloat16).float(),
}


@pytest.mark.parametrize("edit", EDITS)
def test_edited_weights_are_packed_again(edit: str) -> None:
    block = folded("rep, scaled")
    maps = maps_for(block, (2, 14, 14))
    before = run(block, maps)
    with torch.no_grad():
        EDITS[edit](block)
    out = run(block, maps)
    assert relative_rms(out, truth(block, maps)) < BOUNDS[torch.float32]
    assert not torch.equal(out, before)


def test_copies_have_weights_of_their_own() -> None:
    block = folded("dynamic")
    maps = maps_for(block, (2, 9, 9))
    before = run(block, maps)
    for other in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        assert "_packed" not in other.__dict__
        with torch.no_grad():
            other.proj.weight.mul_(2)
        assert not torch.equal(run(other, maps), before)
    assert torch.equal(run(block, maps), before)


def test_hooks_of_its_parts_are_called() -> None:
    block, seen = folded("rep, scaled"), []
    maps = maps_for(block, (1, 9, 9))
    own = run(block, maps)
    handle = block.large.register_forward_hook(lambda *_: seen.append(1))
    with torch.no_grad():
        assert relative_rms(block(*maps), own.double()) < 5e-7
    assert seen
    handle.remove()
    run(block, maps)
    handle = nn.modules.module.register_module_forward_hook(lambda *_: seen.append(1))
    try:
        assert native_block.rep_conv_block(block, *maps) is None
    finally:
        handle.remove()


def test_two_threads_at_once() -> None:
    block = folded("dynamic, mixing")
    inputs = [maps_for(block, (2, 10, 9 + i)) for i in range(4)]
    wanted = [run(block, maps) for maps in inputs]
    got: list[bool] = []

    def work(i: int) -> None:
        with torch.no_grad():
            got.append(all(torch.equal(block(*[x.clone() for x in inputs[i]]), wanted[i]) for _ in range(20)))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [True] * 4


def test_what_runs_operator_by_operator() -> None:
    block = folded("dynamic")
    maps = maps_for(block, (1, 9, 9))
    run(block, maps)
    assert native_block.why_not(*[x.double() for x in maps]) == "in torch.float64"
    assert "not channels_last" in str(native_block.why_not(*[x.contiguous() for x in maps]))
    assert "gradient" in str(native_block.why_not(maps[0].requires_grad_(), maps[1]))
    maps[0] = maps[0].detach()
    with torch.autocast("cpu"):
        assert native_block.why_not(*maps) == "under autocast"
    with separate_operators():
        assert "operator by operator" in str(native_block.why_not(*maps))
    with torch.no_grad():
        assert native_block.dynamic_conv_block(block, *maps_for(block, (1, 5, 9))) is None  # is enlarged
        assert native_block.dynamic_conv_block(set_backend(block, "tiled"), *maps) is None
    with torch.inference_mode():
        made_there = folded("rep, scaled")
        assert native_block.rep_conv_block(made_there, *maps_for(made_there, (1, 9, 9))) is None


def test_maps_that_do_not_fit_are_refused_by_pytorch() -> None:
    """Nothing beyond a map is read: operator by operator PyTorch says what is wrong."""
    block = folded("rep, scaled")
    (x,) = maps_for(block, (2, 9, 9))
    run(block, [x])
    dynamic = folded("dynamic, mixing")
    joint, prior = maps_for(dynamic, (2, 9, 9))
    run(dynamic, [joint, prior])
    narrow = joint[:, 1:].contiguous(memory_format=torch.channels_last)
    few = prior[:, :, :1].contiguous(memory_format=torch.channels_last)
    wrong: list[tuple[Any, list[Tensor]]] = [
        (block, [x[:, 1:].contiguous(memory_format=torch.channels_last)]),
        (block, [x.bfloat16()]),
        (dynamic, [narrow, prior]),
        (dynamic, [joint, few[:, :, :, 1:].contiguous(memory_format=torch.channels_last)]),
        (dynamic, [joint.bfloat16(), prior.bfloat16()]),
    ]
    for own, maps in wrong:
        with torch.no_grad(), pytest.raises(RuntimeError):
            own(*[y.clone() for y in maps])
    assert native_block.rep_conv_block(block.to("meta"), x) is None


def test_a_profiler_sees_the_call() -> None:
    block = folded("rep, scaled")
    maps = maps_for(block, (1, 9, 9))
    with torch.no_grad(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        block(*maps)
    assert "overlock::rep_conv_block" in {event.key for event in profiler.key_averages()}


@pytest.mark.parametrize("name", ["rep, scaled", "dynamic, mixing"])
def test_not_a_number_stays_one(name: str) -> None:
    block = folded(name)
    maps = maps_for(block, (2, 14, 14))
    maps[0][1, 3, 5, 5] = float("nan")
    out = run_once(block, maps)
    assert out[0].isfinite().all()
    assert out[1].isnan().any()


def run_once(block: Any, maps: list[Tensor]) -> Tensor:
    with torch.no_grad():
        return block(*maps)
