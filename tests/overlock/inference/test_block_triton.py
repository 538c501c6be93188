"""What stands between the convolutions of a folded block, in Triton, against float64; and whole deployed networks with
every fusion: in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from overlock import deploy
from overlock.depthwise import dispatch, last
from overlock.inference import block_triton, convolution, fusions, mlp_triton
from tests.overlock.contmix.cases import relative_rms
from tests.overlock.contmix.test_triton import interpreter  # noqa: F401 (a fixture)
from tests.overlock.tools import tiny

pytest.importorskip("triton")
TOLERANCES = {torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 1.5e-3}
every_dtype = pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
every_shape = pytest.mark.parametrize("shape", [(2, 9, 5, 4), (1, 5, 1, 1), (3, 16, 7, 3)], ids=str)
ON_A_GPU = [(4, 64, 56, 56), (4, 128, 28, 28), (4, 384, 14, 14), (4, 640, 7, 7)]

Draw = Callable[..., Tensor]


def drawing(dtype: torch.dtype, device: str = "cpu") -> Draw:
    generator = torch.Generator().manual_seed(3)

    def draw(*size: int) -> Tensor:
        x = torch.randn(size, generator=generator).to(device, dtype)
        return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x

    return draw


def check_conv_norm(shape: tuple[int, ...], dtype: torch.dtype, device: str = "cpu") -> None:
    draw, channels = drawing(dtype, device), shape[1]
    x, weight, bias, gain, shift = draw(*shape), draw(channels, 1, 3, 3).contiguous(), *(draw(channels) for _ in "123")
    out, norm = block_triton.conv_norm(x, weight, bias, gain, shift, 1e-6)
    wanted = F.conv2d(x.double(), weight.double(), bias.double(), padding=1, groups=channels)
    assert relative_rms(out, wanted.cpu()) < TOLERANCES[dtype]
    normed = F.layer_norm(out.double().permute(0, 2, 3, 1), (channels,), gain.double(), shift.double(), 1e-6)
    assert relative_rms(norm, normed.permute(0, 3, 1, 2).cpu()) < TOLERANCES[dtype]
    activated = mlp_triton.conv_gelu(x, weight, bias)
    assert relative_rms(activated, F.gelu(wanted).cpu()) < TOLERANCES[dtype]


def check_gate(shape: tuple[int, ...], dtype: torch.dtype, device: str = "cpu") -> None:
    draw, channels = drawing(dtype, device), shape[1]
    inner = max(16, channels // 8) + 1
    y, x, residual = draw(*shape), draw(shape[0], channels + 3, *shape[2:]), draw(*shape)
    down, up = draw(inner, channels, 1, 1).contiguous(), draw(channels, inner, 1, 1).contiguous()
    down_bias, bias, scale = draw(inner), draw(channels), draw(channels)
    weight, square = draw(channels, channels + 3, 1, 1).contiguous(), draw(channels, channels, 1, 1).contiguous()
    wide = {name: value.double() for name, value in locals().items() if isinstance(value, Tensor)}
    factor = block_triton.squeeze(y, down, down_bias, up, bias)
    hidden = F.gelu(F.conv2d(wide["y"].mean((2, 3), keepdim=True), wide["down"], wide["down_bias"]))
    gate = F.conv2d(hidden, wide["up"], wide["bias"]).sigmoid()
    assert factor.shape == (*shape[:2], 1, 1)
    assert relative_rms(factor, gate.cpu()) < TOLERANCES[dtype]
    out = block_triton.gate_(y, factor, x, weight, bias)
    assert out.data_ptr() == y.data_ptr(), "in place"
    wanted = wide["y"] * factor.double() * F.silu(F.conv2d(wide["x"], wide["weight"], wide["bias"]))
    assert relative_rms(out, wanted.cpu()) < TOLERANCES[dtype]
    for factors in (None, scale):
        wanted = residual.double() * (1 if factors is None else wide["scale"].view(1, -1, 1, 1))
        wanted = wanted + F.conv2d(out.double(), wide["square"], wide["bias"])
        added = mlp_triton.add_product_(residual, out, square, bias, factors)
        assert added.data_ptr() == residual.data_ptr(), "in place"
        assert relative_rms(added, wanted.cpu()) < TOLERANCES[dtype]


@pytest.mark.usefixtures("interpreter")
@every_dtype
@every_shape
def test_conv_norm(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    check_conv_norm(shape, dtype)


@pytest.mark.usefixtures("interpreter")
@every_dtype
@every_shape
def test_squeeze_gate_and_products(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    check_gate(shape, dtype)


@pytest.mark.usefixtures("interpreter")
def test_several_blocks_of_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VALUES", "TOKENS", "COLUMNS", "DEPTH"):
        monkeypatch.setattr(block_triton, name, 16)
    monkeypatch.setattr(block_triton, "INNER", 4)
    check_conv_norm((2, 9, 5, 4), torch.float32)
    check_gate((2, 20, 5, 4), torch.float32)


@pytest.fixture
def everything() -> Iterator[None]:
    """Every fusion, and large depthwise convolutions by Triton."""
    fusions.use("all")
    dispatch.use("triton")
    yield
    fusions.use("none")
    dispatch.use("torch")


def check_a_network(dtype: torch.dtype, device: str, tolerance: float) -> None:
    """A deployed network of every kind of block, against itself in float64 without any fusion."""
    model = tiny().eval()
    x = torch.randn(1, 3, 64, 48, generator=torch.Generator().manual_seed(0))
    deployed = deploy(model).to(device, dtype)
    with torch.no_grad():
        got = deployed(x.to(device, dtype))
        fusions.use("none")
        dispatch.use("torch")
        wanted = deploy(model).to(dtype).double()(x.to(dtype).double())
    assert relative_rms(got, wanted) < tolerance


@pytest.mark.usefixtures("interpreter", "everything")
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), pytest.param(torch.bfloat16, 5e-2, marks=pytest.mark.slow)], ids=str
)
def test_a_whole_network_with_every_fusion(
    dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU oneDNN comes first, and is switched off."""
    monkeypatch.setattr(convolution, "why_not", lambda x: "not on CUDA")
    ran: list[str] = []

    def noted(name: str, function: Any) -> Any:
        return lambda *args, **kwargs: (ran.append(name), function(*args, **kwargs))[1]

    names = {block_triton: ("conv_norm", "squeeze", "gate_"), mlp_triton: ("mlp_", "conv_gelu", "add_product_"),
             last: ("depthwise_last",)}  # fmt: skip
    for module, functions in names.items():
        for name in functions:
            monkeypatch.setattr(module, name, noted(name, getattr(module, name)))
    check_a_network(dtype, "cpu", tolerance)
    blocks, dynamic = 7, 3  # of `tiny`
    counts = {name: ran.count(name) for functions in names.values() for name in functions}
    assert counts == {"conv_norm": blocks + dynamic, "squeeze": blocks, "gate_": dynamic, "mlp_": blocks,
                      "conv_gelu": dynamic, "add_product_": 2 * dynamic, "depthwise_last": blocks}  # fmt: skip


def test_the_switch() -> None:
    x = torch.zeros(1, 4, 3, 3).contiguous(memory_format=torch.channels_last)
    assert fusions.why_not("mlp", x, x) == "OVERLOCK_FUSIONS is none"
    for wrong in ("cuda", "", "mlp,cuda", "mlp,"):
        with pytest.raises(ValueError, match=f"OVERLOCK_FUSIONS={wrong}: give none, all, or some of mlp,norm,gate"):
            fusions.use(wrong)
    fusions.use("norm,mlp")
    try:
        assert fusions.why_not("gate", x) == "OVERLOCK_FUSIONS is mlp,norm"
        assert "not float64" in str(fusions.why_not("mlp", x.double()))
        assert fusions.why_not("mlp", x, x.contiguous()) == "a map is not channels_last"
        assert fusions.why_not("mlp", torch.zeros(1, 4, 3, 3, requires_grad=True)) == "a gradient is asked for"
        with torch.autocast("cpu"):
            assert fusions.why_not("mlp", x) == "under autocast"
        with torch.utils.flop_counter.FlopCounterMode(display=False):
            assert fusions.why_not("mlp", x) == "traced or counted, operator by operator"
        with mock.patch.object(fusions, "_interpreting", return_value=False):
            assert fusions.why_not("mlp", x) == "it needs a CUDA device, and the map is on cpu"
    finally:
        fusions.use("none")


@pytest.mark.gpu
@every_dtype
@pytest.mark.parametrize("shape", ON_A_GPU, ids=str)
def test_on_a_gpu(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    check_conv_norm(shape, dtype, "cuda")
    check_gate(shape, dtype, "cuda")


@pytest.mark.gpu
@pytest.mark.usefixtures("everything")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 5e-2)], ids=str)
def test_a_whole_network_on_a_gpu(dtype: torch.dtype, tolerance: float) -> None:
    check_a_network(dtype, "cuda", tolerance)
