"""Depthwise convolution by Triton against PyTorch's in float64: in the interpreter, and on a GPU where there is one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import overlock.depthwise.parallel
from overlock.depthwise import dispatch
from overlock.depthwise import triton as depthwise_triton
from overlock.depthwise.dispatch import Case
from overlock.depthwise.parallel import parallel_convs
from overlock.depthwise.triton import KERNEL_SIZES, depthwise
from overlock.inference import convolution
from overlock.inference.convolution import conv
from tests.overlock.contmix.cases import relative_rms
from tests.overlock.contmix.test_triton import interpreter  # noqa: F401 (a fixture)

# relative root mean square against float64 on the inputs as rounded, output and gradients
TOLERANCES = {torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}
LAYOUTS = {"channels_first": torch.contiguous_format, "channels_last": torch.channels_last}


@pytest.fixture
def without_tf32() -> Iterator[None]:
    """PyTorch lets convolutions round to TF32 unless it is told not to, and the kernels follow it."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def check(
    shape: tuple[int, ...], k: int, dtype: torch.dtype, device: str = "cpu", layout: str = "channels_first"
) -> None:
    generator = torch.Generator().manual_seed(k)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator).to(dtype)

    x, grad = (draw(*shape).to(device).contiguous(memory_format=LAYOUTS[layout]) for _ in range(2))
    weight, bias = draw(shape[1], 1, k, k).to(device), draw(shape[1]).to(device)
    inputs = [t.requires_grad_() for t in (x, weight, bias)]
    out = depthwise(*inputs)
    got = [out, *torch.autograd.grad(out, inputs, grad)]
    assert all(t.dtype == dtype for t in got)
    assert got[0].stride() == x.stride()
    wide = [t.detach().double().cpu().requires_grad_() for t in inputs]
    truth = F.conv2d(*wide, padding=k // 2, groups=shape[1])
    wanted = [truth, *torch.autograd.grad(truth, wide, grad.double().cpu())]
    for name, a, b in zip(("output", "x", "weight", "bias"), got, wanted, strict=True):
        assert relative_rms(a, b.detach()) < TOLERANCES[dtype], name


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("k", KERNEL_SIZES)
def test_kernel_sizes(k: int) -> None:
    check((1, 1, 5, 6), k, torch.float32)


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize(
    "shape",
    [(2, 2, 1, 1), (2, 2, 20, 7), (3, 1, 7, 33), (2, 1, 80, 4), (1, 65, 2, 3), (1, 2, 3, 70), (70, 1, 2, 3)],
    ids=str,
)
def test_shapes(shape: tuple[int, ...]) -> None:
    """Among them more columns, channels and groups of rows than a program takes."""
    check(shape, 5, torch.float32)


@pytest.mark.usefixtures("interpreter")
def test_no_images() -> None:
    x, weight = torch.zeros(0, 2, 5, 6, requires_grad=True), torch.ones(2, 1, 5, 5, requires_grad=True)
    out = depthwise(x, weight)
    assert out.shape == x.shape
    d_x, d_weight = torch.autograd.grad(out, [x, weight], torch.zeros_like(out))
    assert d_x.shape == x.shape
    assert not d_weight.any()


@pytest.mark.usefixtures("interpreter")
def test_a_program_that_goes_through_several_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(depthwise_triton, "PROGRAMS", 1)
    monkeypatch.setattr(depthwise_triton, "GROUPS", 16)
    check((5, 1, 25, 9), 11, torch.float32)


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision_and_layouts(dtype: torch.dtype, layout: str) -> None:
    check((2, 3, 9, 8), 7, dtype, layout=layout)


@pytest.fixture
def using() -> Iterator[Callable[[str], None]]:
    """`dispatch.use`, undone afterwards."""
    yield dispatch.use
    dispatch.use("torch")


@pytest.mark.usefixtures("interpreter")
def test_what_is_used(using: Callable[[str], None], tmp_path: Path) -> None:
    x, weight = torch.zeros(2, 8, 14, 14), torch.zeros(8, 1, 13, 13)
    case = Case(13, 8, 14, 14, "float32", "channels_first", gradients=False)
    assert Case.of(x, 13, False) == case
    assert Case.of(x.contiguous(memory_format=torch.channels_last), 13, True).layout == "channels_last"
    assert dispatch.chosen(x, weight) == "torch"
    using("triton")
    assert dispatch.chosen(x, weight) == "padded"
    assert dispatch.chosen(x.double(), weight.double()) == "torch"
    assert dispatch.chosen(x, torch.zeros(8, 1, 3, 3)) == "torch"
    with torch.autocast("cpu"):
        assert dispatch.chosen(x, weight) == "torch"
    file = tmp_path / "winners.json"
    last_case = case._replace(layout="channels_last")
    won = {case: "triton", case._replace(height=7): "torch", last_case: "triton", last_case._replace(width=7): "padded"}
    file.write_text(json.dumps([{"case": c, "winner": winner} for c, winner in won.items()]))
    using(str(file))
    assert dispatch.chosen(x, weight) == "padded"
    assert dispatch.chosen(x[:, :, :7], weight) == "torch"
    assert dispatch.chosen(x[:, :4], weight[:4]) == "torch"
    placed = x.contiguous(memory_format=torch.channels_last)
    assert dispatch.chosen(placed, weight) == "triton"
    narrow = x[..., :7].contiguous(memory_format=torch.channels_last)
    assert dispatch.chosen(narrow, weight) == "padded", "as the measurement says"
    assert dispatch.chosen(x, weight.requires_grad_()) == "torch"
    with torch.no_grad():
        assert dispatch.chosen(x, weight) == "padded"
    using("torch")
    assert dispatch.chosen(x, weight) == "torch"


@pytest.mark.parametrize("text", [None, "{", "[1]", '[{"winner": "triton"}]', '[{"case": [1], "winner": "triton"}]'])
def test_a_file_that_is_none_of_winners(using: Callable[[str], None], tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "winners.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ValueError, match=r"winners.json: neither torch, triton, padded nor a file of winners"):
        using(str(file))


def test_the_variable_is_read() -> None:
    code = "from overlock.depthwise import dispatch; print(dispatch.everywhere)"
    env = {**os.environ, dispatch.VARIABLE: "triton"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert done.stdout.strip() == "triton"


class Both(nn.Module):
    """A deployed convolution and two of the training form, as the networks call them."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.convs = nn.ModuleList(nn.Conv2d(3, 3, k, padding=k // 2, groups=3, bias=False) for k in (7, 5))
        for p in self.parameters():
            nn.init.normal_(p, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        y = conv(x, self.convs[0].weight, None, "gelu")
        a, b = parallel_convs(y, list(self.convs))
        return a + b


def check_in_a_network(using: Callable[[str], None], device: str, compiler: str) -> None:
    """Eager and compiled into one graph, forward and gradients; the kernels are launched where they are asked for."""
    net, x = Both().to(device), torch.randn(1, 3, 6, 7, generator=torch.Generator().manual_seed(1)).to(device)
    compiled = torch.compile(net, fullgraph=True, backend=compiler)
    launched: list[bool] = []
    convolve = depthwise_triton._convolve

    def watched(*args: Any, **kwargs: Any) -> Tensor:
        launched.append(True)
        return convolve(*args, **kwargs)

    results = {}
    for what in ("torch", "triton"):
        using(what)
        torch._dynamo.reset()
        for name, run in (("eager", net), ("compiled", compiled)):
            launched.clear()
            with mock.patch.object(depthwise_triton, "_convolve", watched):
                out = run(x)
            assert len(launched) == (3 if what == "triton" else 0), (what, name)
            results[what, name] = [out.detach(), *torch.autograd.grad(out.square().sum(), list(net.parameters()))]
    for key, found in results.items():
        for a, b in zip(found, results["torch", "eager"], strict=True):
            assert relative_rms(a, b.double().cpu()) < 2e-6, key


@pytest.mark.usefixtures("interpreter")
def test_networks_take_it(using: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU oneDNN and our own backward come first: they are switched off."""
    monkeypatch.setattr(convolution, "why_not", lambda x: "not on CUDA")
    monkeypatch.setattr(overlock.depthwise.parallel, "eager_autograd", lambda: False)
    check_in_a_network(using, "cpu", "aot_eager")


@pytest.mark.gpu
@pytest.mark.usefixtures("without_tf32")
def test_networks_take_it_on_a_gpu(using: Callable[[str], None]) -> None:
    check_in_a_network(using, "cuda", "inductor")


def test_reasons_why_not() -> None:
    with pytest.raises(ValueError, match="not float64"):
        depthwise(torch.zeros(1, 1, 4, 4, dtype=torch.float64), torch.zeros(1, 1, 5, 5))
    with pytest.raises(ValueError, match="not 6"):
        depthwise(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 6, 6))


def test_meta_and_cost() -> None:
    x, weight = torch.zeros(2, 3, 9, 8, device="meta"), torch.zeros(3, 1, 7, 7, device="meta")
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        assert torch.ops.overlock.depthwise(x, weight, None).shape == x.shape
    assert counter.get_total_flops() == 2 * 2 * 3 * 72 * 49


@pytest.mark.gpu
@pytest.mark.parametrize("tf32", [False, True])
def test_rounding_to_tf32_is_asked_for_on_a_gpu(tf32: bool) -> None:
    """Where PyTorch's own convolutions may round to it; a relative rounding of 2^-11 is 5e-4."""
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(s, generator=generator) for s in ((2, 16, 28, 28), (16, 1, 15, 15)))
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=tf32):
        out = depthwise(x.cuda(), weight.cuda())
    error = relative_rms(out, F.conv2d(x.double(), weight.double(), padding=7, groups=16))
    assert 1e-5 < error < 1e-3 if tf32 else error < TOLERANCES[torch.float32]


@pytest.mark.gpu
@pytest.mark.usefixtures("without_tf32")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(
    ("shape", "k"),
    [((8, 64, 56, 56), 17), ((8, 128, 28, 28), 15), ((8, 256, 14, 14), 13), ((8, 512, 7, 7), 7)],
    ids=str,
)
def test_on_a_gpu(shape: tuple[int, ...], k: int, dtype: torch.dtype, layout: str) -> None:
    check(shape, k, dtype, "cuda", layout)
