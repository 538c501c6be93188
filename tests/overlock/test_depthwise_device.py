"""Depthwise convolution by Triton against PyTorch's in float64: in the interpreter, and on a GPU where there is one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from contmix_cases import relative_rms
from test_contmix_fused import interpreter  # noqa: F401 (a fixture)
from torch import Tensor

from overlock import depthwise_device
from overlock.depthwise_device import Case, depthwise

# relative root mean square against float64 on the inputs as rounded, output and gradients
TOLERANCES = {torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}
LAYOUTS = {"channels_first": torch.contiguous_format, "channels_last": torch.channels_last}


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
@pytest.mark.parametrize("k", depthwise_device.KERNEL_SIZES)
def test_kernel_sizes(k: int) -> None:
    check((1, 1, 5, 6), k, torch.float32)


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("shape", [(2, 2, 1, 1), (2, 2, 20, 7), (3, 1, 7, 33), (2, 1, 80, 4)], ids=str)
def test_shapes(shape: tuple[int, ...]) -> None:
    check(shape, 5, torch.float32)


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision_and_layouts(dtype: torch.dtype, layout: str) -> None:
    check((2, 3, 9, 8), 7, dtype, layout=layout)


def test_winners_are_used_on_cuda_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(depthwise_device, "winners", set())
    case = Case(13, 8, 14, 14, "float32", "channels_first")
    (tmp_path / "w.json").write_text(json.dumps([{"case": case, "winner": "triton"}, {"case": [1], "winner": "torch"}]))
    depthwise_device.load_winners(tmp_path / "w.json")
    assert depthwise_device.winners == {case}
    x = torch.zeros(2, 8, 14, 14)
    assert Case.of(x, 13) == case
    assert not depthwise_device.wins(x, torch.zeros(8, 1, 13, 13))


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
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(
    ("shape", "k"),
    [((8, 64, 56, 56), 17), ((8, 128, 28, 28), 15), ((8, 256, 14, 14), 13), ((8, 512, 7, 7), 7)],
    ids=str,
)
def test_on_a_gpu(shape: tuple[int, ...], k: int, dtype: torch.dtype, layout: str) -> None:
    check(shape, k, dtype, "cuda", layout)
