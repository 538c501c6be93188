"""ContMix: every backend against the definition in float64, forward and all gradients."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from overlock.contmix import (
    BACKENDS,
    Inputs,
    choose_backend,
    contmix,
    contmix_merged,
    merge_biases,
    native,
    op,
    reference,
)
from tests.overlock import isas
from tests.overlock.contmix.cases import SCALE, Case, relative_rms, skip_if_unable, truth, widest

HERE = [name for name in BACKENDS if name != "fused"]  # that is in test_triton.py: an interpreter runs it, slowly
ALL = [*HERE, "auto"]
CASES = [
    Case(7, 7, 7),  # one window
    Case(8, 8, 7),  # one larger: two windows an axis
    Case(9, 11, 7),
    Case(7, 20, 7),  # one window along one axis only
    Case(13, 13, 13),
    Case(14, 14, 13),  # OverLoCK's stages at 224x224
    Case(13, 30, 13),
    Case(15, 22, 13, batch=1),
    Case(24, 24, 13, batch=3, heads=3),  # at 384x384; an odd share of images and heads
    Case(50, 33, 13, batch=1),  # tiles that overlap, one head at a time
    Case(9, 8, 7, batch=1, heads=1, query_channels=1, value_channels=1),
    Case(6, 5, 5, small=3, regions=2),
    Case(8, 13, 7, batch=1, query_channels=10, value_channels=14),  # OverLoCK-S's, XT's
    Case(14, 14, 13, batch=1, query_channels=16, value_channels=16),  # whole vectors of channels
    Case(9, 10, 7, batch=1, query_channels=33, value_channels=44),  # several, and a part of one
]
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {}


def layout(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    LAYOUTS[change.__name__] = change
    return change


@layout
def contiguous(x: Tensor) -> Tensor:
    return x.contiguous()


@layout
def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


@layout
def sliced(x: Tensor) -> Tensor:
    """Every dimension strided, from a wider tensor of NaN."""
    wide = x.new_full([2 * n + 1 for n in x.shape], math.nan)
    view = wide[tuple(slice(1, None, 2) for _ in x.shape)]
    return view.copy_(x)


@pytest.fixture(autouse=True)
def _memory_starts_as_nan() -> Iterator[None]:
    """What is read before it is written shows."""
    before = torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(before)


def errors(
    case: Case, dtype: torch.dtype, change: Callable[[Tensor], Tensor], backend: str, device: str = "cpu"
) -> dict[str, float]:
    inputs = [change(x.to(device)).requires_grad_() for x in case.inputs(dtype)]
    skip_if_unable(backend, inputs[2])
    out = contmix(*inputs, SCALE, backend)
    assert out.dtype == dtype
    gradients = torch.autograd.grad(out, inputs, change(case.output_gradient(dtype).to(device)))
    assert all(g.dtype == dtype for g in gradients)
    wanted = truth(case, dtype)
    return {key: relative_rms(got, wanted[key]) for key, got in zip(wanted, (out, *gradients), strict=True)}


def written_out(case: Case) -> Tensor:
    """The definition tap by tap, in Python's own loops."""
    q, k, v, p, b, *tables = case.inputs()
    out = torch.zeros_like(v)
    heads, width = case.heads, case.value_channels
    for image in range(case.batch):
        for g in range(heads):
            channels = slice(g * case.query_channels, (g + 1) * case.query_channels)
            centres = k[image, channels].flatten(1)  # cq, R
            for i in range(case.height):
                for j in range(case.width):
                    affinity = SCALE * q[image, channels, i, j] @ centres
                    logits = p @ affinity + b
                    first_tap = 0
                    for half, (size, rpb) in enumerate(zip((case.small, case.kernel), tables, strict=True)):
                        top = min(max(i - size // 2, 0), case.height - size)
                        left = min(max(j - size // 2, 0), case.width - size)
                        taps = [(u, w) for u in range(size) for w in range(size)]
                        biases = [rpb[g, top + u - i + size - 1, left + w - j + size - 1] for u, w in taps]
                        own = logits[first_tap : first_tap + size**2] + torch.stack(biases)
                        first_tap += size**2
                        mine = slice((half * heads + g) * width, (half * heads + g + 1) * width)
                        window = v[image, mine, top : top + size, left : left + size].flatten(1)
                        out[image, mine, i, j] = window @ own.softmax(0)
    return out


@pytest.mark.parametrize("case", [Case(7, 9, 7, batch=1), Case(6, 5, 5, small=3, regions=2)], ids=str)
def test_the_definition_written_out(case: Case) -> None:
    assert relative_rms(reference.forward(case.inputs(), SCALE), written_out(case)) < 1e-14


# relative root mean square against float64: of the output, of the worst gradient, and of the worst gradient of the
# definition itself, which sums the bias tables' in the low precision
TOLERANCES = [
    (torch.float64, 2e-15, 1e-14, 1e-14),
    (torch.float32, 5e-7, 2e-6, 2e-6),
    (torch.bfloat16, 1e-2, 1.5e-2, 8e-2),
    (torch.float16, 1.2e-3, 2e-3, 1.2e-2),
]


def ids(tolerances: tuple[torch.dtype, float, float, float]) -> str:
    return str(tolerances[0]).removeprefix("torch.")


def check(
    backend: str, case: Case, layout: str, tolerances: tuple[torch.dtype, float, float, float], device: str = "cpu"
) -> None:
    dtype, forward, backward, by_definition = tolerances
    worst = errors(case, dtype, LAYOUTS[layout], backend, device)
    assert worst.pop("output") < forward
    assert max(worst.values()) < (by_definition if backend == "reference" else backward), worst


@pytest.mark.parametrize("tolerances", TOLERANCES, ids=ids)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("backend", HERE)
def test_backend(backend: str, case: Case, tolerances: tuple[torch.dtype, float, float, float]) -> None:
    check(backend, case, "contiguous", tolerances)


@pytest.mark.parametrize("isa", isas.others())
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("tolerances", [t for t in TOLERANCES if t[0] in native.DTYPES], ids=ids)
def test_the_kernel_in_every_instruction_set(
    tolerances: tuple[torch.dtype, float, float, float], case: Case, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    isas.compile_for(isa, monkeypatch)
    check("native", case, "contiguous", tolerances)


@pytest.mark.parametrize("tolerances", TOLERANCES[:2], ids=ids)
@pytest.mark.parametrize("layout", ["channels_last", "sliced"])
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("backend", HERE)
def test_layouts(backend: str, case: Case, layout: str, tolerances: tuple[torch.dtype, float, float, float]) -> None:
    check(backend, case, layout, tolerances)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("tolerances", TOLERANCES, ids=ids)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_backend_on_cuda(
    backend: str, case: Case, layout: str, tolerances: tuple[torch.dtype, float, float, float]
) -> None:
    check(backend, case, layout, tolerances, "cuda")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_merged_biases(case: Case, dtype: torch.dtype) -> None:
    *maps, proj_bias, rpb1, rpb2 = case.inputs(dtype)
    biases = merge_biases(proj_bias, rpb1, rpb2, case.height, case.width)
    got = contmix_merged(*maps, *biases, SCALE)
    assert relative_rms(got, truth(case, dtype)["output"]) < (2e-15 if dtype == torch.float64 else 5e-7)


def test_merged_biases_of_another_map_are_refused() -> None:
    (*_, proj_bias, rpb1, rpb2), (*maps, _, _, _) = Case(14, 14, 13).inputs(), Case(15, 14, 13).inputs()
    with pytest.raises(ValueError, match="do not fit a 15x14 map"):
        contmix_merged(*maps, *merge_biases(proj_bias, rpb1, rpb2, 14, 14), SCALE)


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("bias", [-math.inf, -2e30], ids=str)
@pytest.mark.parametrize("every", [1, 2])
def test_taps_that_are_shut(backend: str, bias: float, every: int) -> None:
    """A tap of -inf has no weight; where all are shut nothing is defined. What is far below zero is still compared."""
    inputs = CASES[2].inputs(torch.float32)
    skip_if_unable(backend, inputs.value)
    inputs.proj_bias[::every] = bias
    wanted = reference.forward(inputs, SCALE)
    torch.testing.assert_close(contmix(*inputs, SCALE, backend), wanted, rtol=1e-4, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("wanting", Inputs._fields)
def test_gradient_of_one_input_alone(backend: str, wanting: str) -> None:
    case, dtype = CASES[2], widest(backend)
    inputs = [x.requires_grad_(key == wanting) for key, x in zip(Inputs._fields, case.inputs(dtype), strict=True)]
    skip_if_unable(backend, inputs[2])
    contmix(*inputs, SCALE, backend).backward(case.output_gradient(dtype))
    for key, x in zip(Inputs._fields, inputs, strict=True):
        if key == wanting:
            assert x.grad is not None
            assert relative_rms(x.grad, truth(case, dtype)[key]) < (1e-14 if dtype == torch.float64 else 2e-6)
        else:
            assert x.grad is None


@pytest.mark.parametrize("backend", ALL)
def test_expanded_output_gradient(backend: str) -> None:
    dtype = widest(backend)
    inputs, truths = (Case(9, 8, 7).inputs(dtype, requires_grad=True) for _ in range(2))
    skip_if_unable(backend, inputs.value)
    contmix(*inputs, SCALE, backend).sum().backward()
    reference.forward(truths, SCALE).sum().backward()
    for got, wanted in zip(inputs, truths, strict=True):
        # sums to which every term but the values' contributes nothing
        error = 1e-12 if dtype == torch.float64 else 2e-5
        torch.testing.assert_close(got.grad, wanted.grad, rtol=error, atol=error)


@pytest.mark.parametrize("backend", ALL)
def test_autocast(backend: str) -> None:
    case = CASES[2]
    inputs = case.inputs(torch.float32, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = contmix(*inputs, SCALE, backend)
    assert out.dtype == torch.bfloat16
    out.backward(case.output_gradient(torch.bfloat16))
    wanted = truth(case, torch.float32)
    assert relative_rms(out, wanted["output"]) < 2e-2  # the inputs are rounded to bfloat16 too
    for key, x in zip(Inputs._fields, inputs, strict=True):
        assert x.grad is not None
        assert x.grad.dtype == torch.float32
        assert relative_rms(x.grad, wanted[key]) < 8e-2, key


def test_autocast_leaves_float64_as_it_is() -> None:
    """As PyTorch's own operators do: a float64 model runs under autocast."""
    inputs = CASES[2].inputs()
    with torch.autocast("cpu", torch.bfloat16):
        assert contmix(*inputs, SCALE).dtype == torch.float64


def test_parameters_take_the_dtype_of_the_values() -> None:
    case = CASES[2]
    maps, parameters = case.inputs(torch.bfloat16)[:3], case.inputs(torch.float32)[3:]
    assert contmix(*maps, *parameters, SCALE).dtype == torch.bfloat16


def test_auto_says_once_what_it_chose(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    inputs = Case(7, 7, 7).inputs()
    monkeypatch.setattr(op, "_logged", set())
    chosen = choose_backend("auto", inputs.value)
    assert chosen in BACKENDS
    with caplog.at_level(logging.INFO, logger="overlock"):
        out = contmix(*inputs, SCALE)
        assert torch.equal(out, contmix(*inputs, SCALE))
    assert torch.equal(out, contmix(*inputs, SCALE, chosen))
    caplog.clear()
    monkeypatch.setattr(op, "_logged", set())
    with caplog.at_level(logging.INFO, logger="overlock"):
        contmix(*inputs, SCALE)
        contmix(*inputs, SCALE)
    assert [record.getMessage() for record in caplog.records] == [f"ContMix on cpu runs backend '{chosen}' (auto)"]


def test_a_backend_asked_for_by_name_runs_or_says_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = Case(7, 7, 7).inputs()
    with pytest.raises(ValueError, match="unknown ContMix backend 'fastest': choose one of auto, reference, tiled"):
        contmix(*inputs, SCALE, "fastest")
    unable = type("Unable", (), {"why_not": staticmethod(lambda *_: "it needs a device of another kind")})
    monkeypatch.setitem(BACKENDS, "unable", unable)
    with pytest.raises(ValueError, match="'unable' cannot run here: it needs a device of another kind"):
        contmix(*inputs, SCALE, "unable")


@pytest.mark.parametrize(
    ("changed", "shape", "words"),
    [
        ("value", (2, 16, 6, 8), "6x8 map is smaller than the 7x7 kernel"),
        ("key", (2, 4, 7, 7), "do not split into 2 heads"),
        ("query", (2, 7, 9, 8), "do not split into 2 heads"),
        ("value", (2, 18, 9, 8), "do not split into 2 heads"),
        ("key", (2, 6, 5, 5), "the kernels and regions need"),
        ("proj_weight", (74, 48), "the kernels and regions need"),
        ("rpb2", (2, 11, 11), "the kernels and regions need"),
        ("query", (2, 6, 9, 9), "query"),
        ("query", (1, 6, 9, 8), "query"),
        ("key", (1, 6, 7, 7), "key"),
        ("proj_bias", (73,), "bias"),
        ("rpb1", (4, 9, 9), "heads"),
        ("rpb2", (4, 13, 13), "heads"),
    ],
)
def test_misfit_shapes(changed: str, shape: tuple[int, ...], words: str) -> None:
    inputs = Case(9, 8, 7).inputs()._replace(**{changed: torch.zeros(shape, dtype=torch.float64)})
    with pytest.raises(ValueError, match=words):
        contmix(*inputs, SCALE)


def test_an_empty_batch() -> None:
    with pytest.raises(ValueError, match="empty batch"):
        contmix(*Case(9, 8, 7, batch=0).inputs(), SCALE)
