"""The Triton backend against the definition in float64: in Triton's interpreter, and on a GPU where there is one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from overlock import set_backend
from overlock.contmix import Inputs, choose_backend, contmix, fused
from tests.overlock.contmix.cases import SCALE, Case, relative_rms, truth
from tests.overlock.tools import tiny

pytest.importorskip("triton")

# relative root mean square against float64 on the inputs as rounded: of the output, and of the worst gradient
TOLERANCES = {torch.float32: (5e-7, 2e-6), torch.bfloat16: (1e-2, 1.5e-2), torch.float16: (1.2e-3, 2e-3)}
every_dtype = pytest.mark.parametrize("dtype", TOLERANCES, ids=lambda d: str(d).removeprefix("torch."))

ONE = {"batch": 1, "heads": 1}
SMALL = [
    Case(3, 3, 3, small=3, regions=2, **ONE),  # both kernels: one window
    Case(4, 4, 3, small=1, regions=3, query_channels=10, value_channels=5, **ONE),  # shared: two windows an axis
    Case(5, 4, 3, small=3, batch=2, heads=2, regions=2, query_channels=1, value_channels=1),  # odd, not square
    Case(3, 19, 3, small=1, regions=2, query_channels=17, value_channels=17, **ONE),  # two tiles and two key blocks
    Case(6, 5, 5, small=3, regions=2, **ONE),
]
LARGE = [
    Case(7, 7, 7),
    Case(8, 8, 7, batch=1, query_channels=14, value_channels=14),
    Case(9, 11, 7, batch=1, query_channels=10, value_channels=10),
    Case(7, 40, 7, **ONE),
    Case(40, 7, 7, **ONE),
    Case(13, 13, 13, **ONE),
    Case(14, 14, 13, batch=3, query_channels=16, value_channels=16),
    Case(18, 18, 13, **ONE),
    Case(15, 33, 13, **ONE),
]
# what a GPU takes besides: OverLoCK's own shapes at 224, 288 and 384, and a dense-prediction map
DEVICE_ONLY = [
    Case(14, 14, 13, batch=8, heads=8, query_channels=16, value_channels=16),
    Case(24, 24, 13, batch=4, heads=8, query_channels=16, value_channels=16),
    Case(7, 7, 7, batch=8, heads=12, query_channels=14, value_channels=14),
    Case(12, 12, 7, batch=4, heads=16, query_channels=10, value_channels=10),
    Case(50, 80, 13, batch=1, heads=8, query_channels=16, value_channels=16),
]


def of_numpy_2_4(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have an interpreter of Triton before 3.8 take NumPy from 2.4 on, which makes no number of an array of one."""
    import triton.runtime.interpreter as module

    original = module._patch_lang_tensor

    def patched(tensor: Any, *scope: Any) -> None:
        def index(self: Any) -> int:
            return int(self.handle.data.item())

        original(tensor, *scope)
        if scope:  # which undoes it, from Triton 3.6 on
            scope[0].set_attr(tensor, "__index__", index)
        else:
            tensor.__index__ = index

    monkeypatch.setattr(module, "_patch_lang_tensor", patched)


@pytest.fixture
def interpreter(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Triton's interpreter, which tests/conftest.py asks for off CUDA; what is read before it is written is NaN."""
    import triton

    if not fused.interpreted():
        pytest.skip("Triton compiles here (TRITON_INTERPRET=1 is not set)")
    if tuple(int(part) for part in triton.__version__.split(".")[:2]) < (3, 8):
        of_numpy_2_4(monkeypatch)
    before = torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(before)


def contiguous(x: Tensor) -> Tensor:
    return x.contiguous()


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def sliced(x: Tensor) -> Tensor:
    """Every dimension strided, from a wider tensor of NaN."""
    wide = x.new_full([2 * n + 1 for n in x.shape], math.nan)
    return wide[tuple(slice(1, None, 2) for _ in x.shape)].copy_(x)


def check(case: Case, dtype: torch.dtype, device: str, change: Callable[[Tensor], Tensor] = channels_last) -> None:
    inputs = [change(x.to(device)).requires_grad_() for x in case.inputs(dtype)]
    out = contmix(*inputs, SCALE, "fused")
    assert out.is_contiguous(memory_format=torch.channels_last)
    gradients = torch.autograd.grad(out, inputs, change(case.output_gradient(dtype).to(device)))
    assert all(x.dtype == dtype for x in (out, *gradients))
    wanted = truth(case, dtype)
    errors = {key: relative_rms(got, wanted[key]) for key, got in zip(wanted, (out, *gradients), strict=True)}
    forward, backward = TOLERANCES[dtype]
    assert errors.pop("output") < forward
    assert max(errors.values()) < backward, errors


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_small_maps(case: Case) -> None:
    check(case, torch.float32, "cpu")


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("case", SMALL[2:], ids=str)
def test_sliding_windows(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel of K > 5, which takes any K, in several warps."""
    monkeypatch.setattr(fused, "SMALL", 0)
    monkeypatch.setattr(fused, "SHORT", 0)
    check(case, torch.float32, "cpu")


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision(dtype: torch.dtype) -> None:
    check(SMALL[3], dtype, "cpu")


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("change", [contiguous, sliced])
def test_layouts(change: Callable[[Tensor], Tensor]) -> None:
    check(SMALL[4], torch.float32, "cpu", change)


@pytest.mark.slow
@pytest.mark.usefixtures("interpreter")
@every_dtype
@pytest.mark.parametrize("case", LARGE, ids=str)
def test_large_maps(case: Case, dtype: torch.dtype) -> None:
    check(case, dtype, "cpu")


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize(
    "case",
    [
        Case(14, 14, 13, query_channels=16, value_channels=16, **ONE),  # OverLoCK's third stage at 224x224
        Case(13, 14, 13, small=3, regions=2, **ONE),
        Case(7, 7, 7, **ONE),
        Case(8, 9, 7, **ONE),
    ],
    ids=str,
)
def test_forward(case: Case) -> None:
    out = contmix(*case.inputs(torch.float32), SCALE, "fused")
    assert relative_rms(out, truth(case, torch.float32)["output"]) < TOLERANCES[torch.float32][0]


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("images", [1, 2, 3])
def test_programs_that_go_through_several_images(images: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused._Branch, "images", lambda self, programs: images)
    check(Case(4, 4, 3, batch=3, heads=1, small=1, regions=2, query_channels=2, value_channels=2), torch.float32, "cpu")


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("launch", [fused.Launch(16, 1, 1), fused.Launch(16, 2, 1), fused.Launch(32, 8, 1)], ids=str)
def test_other_launches(launch: fused.Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in fused.launches:
        monkeypatch.setitem(fused.launches, name, launch)
    monkeypatch.setattr(fused, "SMALL", 0)  # whose launch is fixed
    check(Case(5, 5, 5, small=3, regions=2, **ONE), torch.float32, "cpu")


@pytest.mark.usefixtures("interpreter")
def test_the_same_result_every_time() -> None:
    case = SMALL[3]
    first, second = (
        fused.backward(case.output_gradient(torch.float32), inputs, SCALE)
        for inputs in (case.inputs(torch.float32), case.inputs(torch.float32))
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.usefixtures("interpreter")
def test_operator_is_registered_right() -> None:
    case = Case(3, 3, 3, small=1, regions=2, query_channels=2, value_channels=2, **ONE)
    inputs = [channels_last(x.detach()).requires_grad_() for x in case.inputs(torch.float32)]
    opcheck(
        torch.ops.overlock.contmix.default, (*inputs, SCALE, "fused"), test_utils=("test_schema", "test_faketensor")
    )


@pytest.mark.usefixtures("interpreter")
def test_nothing_of_size_tokens_times_taps(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    case = Case(28, 28, 13, regions=2, query_channels=2, value_channels=2, **ONE)
    inputs = case.inputs(torch.float32)
    monkeypatch.setattr(fused, "_kernel", lambda name: _Unlaunched())
    monkeypatch.setattr(fused, "_table", lambda part: made.append(part.numel()))
    with _Sizes(made):
        fused.forward(inputs, SCALE)
        with pytest.raises(AttributeError, match="NoneType"):  # the table is not made
            fused.backward(case.output_gradient(torch.float32), inputs, SCALE)
    assert made
    assert max(made) < 784 * 169 / 4  # tokens x taps; the largest is query rows x K x (2K - 1)


class _Unlaunched:
    def __getitem__(self, grid: object) -> Callable[..., None]:
        return lambda *args, **kwargs: None


class _Sizes(torch.utils._python_dispatch.TorchDispatchMode):
    def __init__(self, made: list[int]) -> None:
        super().__init__()
        self.made = made

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        self.made += [x.numel() for x in (out if isinstance(out, tuple | list) else [out]) if torch.is_tensor(x)]
        return out


def test_reasons_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(7, 7, 7)
    monkeypatch.setattr(fused, "interpreted", lambda: False)
    with pytest.raises(
        ValueError, match=r"'fused' cannot run here: it needs a CUDA device, and these inputs are on cpu"
    ):
        contmix(*case.inputs(torch.float32), SCALE, "fused")
    with pytest.raises(ValueError, match=r"its kernels take float32, bfloat16 and float16, not float64"):
        contmix(*case.inputs(), SCALE, "fused")
    monkeypatch.setattr(fused, "installed", lambda: False)
    with pytest.raises(ValueError, match=r"Triton is not installed"):
        contmix(*case.inputs(torch.float32), SCALE, "fused")


def test_the_backward_in_float32_is_left_out_where_it_spills(monkeypatch: pytest.MonkeyPatch) -> None:
    """On CUDA: here the map only says that it is there."""

    def why(width: int, kernel: int, dtype: torch.dtype = torch.float32) -> str | None:
        value = mock.Mock(is_cuda=True, dtype=dtype, shape=(1, 8, 24, width))
        return fused.why_no_gradient(value, kernel)

    assert "at most 16 columns at K = 13, not 24" in str(why(24, 13))
    assert why(16, 13) is why(24, 7) is why(24, 13, torch.bfloat16) is None
    before = torch.backends.cuda.matmul.allow_tf32
    try:
        torch.backends.cuda.matmul.allow_tf32 = True
        assert why(24, 13) is None
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    case = Case(3, 3, 3, small=1, regions=2, query_channels=2, value_channels=2, **ONE)
    monkeypatch.setattr(fused, "why_not", lambda value: None)
    monkeypatch.setattr(fused, "forward", lambda inputs, scale: inputs.value)
    monkeypatch.setattr(fused, "why_no_gradient", lambda value, kernel_size: f"as K is {kernel_size}")
    inputs = case.inputs(torch.float32, requires_grad=True)
    with pytest.raises(ValueError, match="'fused' has no gradient here: as K is 3"):
        contmix(*inputs, SCALE, "fused")
    with torch.no_grad():
        contmix(*inputs, SCALE, "fused")


@pytest.mark.usefixtures("interpreter")
def test_auto_leaves_the_interpreter_alone() -> None:
    assert choose_backend("auto", Case(7, 7, 7).inputs(torch.float32).value) != "fused"


@pytest.mark.slow
@pytest.mark.usefixtures("interpreter")
def test_in_the_network() -> None:
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    outputs = []
    for name in ("tiled", "fused"):
        model = set_backend(tiny().train(), name)
        out = model(image.expand(2, -1, -1, -1) * torch.tensor([1.0, 0.5]).view(2, 1, 1, 1))
        out.square().sum().backward()
        outputs.append([out.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    largest = max(x.abs().max() for x in outputs[0][1:])
    for got, wanted in zip(*outputs, strict=True):
        assert (got - wanted).abs().max() < 1e-4 * largest


@pytest.mark.gpu
@every_dtype
@pytest.mark.parametrize("case", [*SMALL, *LARGE, *DEVICE_ONLY], ids=str)
def test_on_a_gpu(case: Case, dtype: torch.dtype) -> None:
    if fused.why_no_gradient(case.inputs(dtype).value.cuda(), case.kernel) is not None:
        out = contmix(*(x.cuda() for x in case.inputs(dtype)), SCALE, "fused")
        assert relative_rms(out, truth(case, dtype)["output"]) < TOLERANCES[dtype][0]
        return
    check(case, dtype, "cuda")
    if case in DEVICE_ONLY and dtype == torch.bfloat16:
        check(case, dtype, "cuda", contiguous)


@pytest.mark.gpu
@pytest.mark.parametrize("case", DEVICE_ONLY, ids=str)
def test_the_same_result_every_time_on_a_gpu(case: Case) -> None:
    inputs = Inputs(*(x.cuda() for x in case.inputs(torch.bfloat16)))
    grad = case.output_gradient(torch.bfloat16).cuda()
    torch.utils.deterministic.fill_uninitialized_memory = True
    runs = [(fused.forward(inputs, SCALE), *fused.backward(grad, inputs, SCALE)) for _ in range(3)]
    for again in runs[1:]:
        for name, a, b in zip(("output", *Inputs._fields), runs[0], again, strict=True):
            assert torch.equal(a, b), name
