"""The C kernels cross-compiled for NEON and run under qemu, against the definitions in float64.

Where an AArch64 compiler and qemu are installed (Debian: gcc-aarch64-linux-gnu, qemu-user).
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

from overlock import native
from overlock.mlp import hidden
from tests.overlock.contmix.cases import SCALE, Case, relative_rms, truth
from tests.overlock.inference.test_grn import defined

COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (shutil.which(COMPILER) and shutil.which(EMULATOR)), reason=f"needs {COMPILER} and {EMULATOR}"
    ),
]
CHANNELS = 32


def last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


@pytest.mark.parametrize(
    "case", [Case(9, 11, 7, value_channels=14), Case(14, 14, 13, batch=1, value_channels=16)], ids=str
)
def test_every_kernel(case: Case, tmp_path: Path) -> None:
    program = tmp_path / "kernels"
    here = Path(__file__).with_name("neon.c")
    flags = [*native.FLAGS, f"-I{native.SOURCES}", "-static", "-lm"]
    subprocess.run([COMPILER, str(here), *flags, "-o", str(program)], check=True)

    query, key, value, proj_weight, proj_bias, rpb1, rpb2 = case.inputs(torch.float32)
    keys = key.reshape(case.batch * query.shape[1], -1) * SCALE
    grad = case.output_gradient(torch.float32)
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    size = (case.batch, CHANNELS, case.height, case.width)
    x, d_y, bias, gamma = draw(*size), draw(*size), draw(CHANNELS), draw(CHANNELS)
    share = draw(case.batch)
    beta, factors = draw(CHANNELS), draw(4, 2, CHANNELS)  # means of branches, and factors of their gradients
    large, small = draw(CHANNELS, 1, case.kernel, case.kernel), draw(CHANNELS, 1, 3, 3)
    middle, inner = 2 * CHANNELS, 16
    squeeze, squeeze_bias, excite = draw(inner, CHANNELS), draw(inner), draw(CHANNELS, inner)
    up, up_bias, hidden_taps = draw(middle, CHANNELS) / 6, draw(middle), draw(middle, 1, 3, 3)
    down = draw(CHANNELS, middle) / 8
    sent = [
        last(query), last(value), keys @ proj_weight.t(), proj_bias, rpb1, rpb2, last(grad),
        last(x), last(d_y), large.flatten(1).t(), small.flatten(1).t(), bias, gamma,
        squeeze.t(), squeeze_bias, excite.t(), up, up_bias, hidden_taps.flatten(1).t(), down,
        last(x), beta, torch.cat([large.flatten(1).t(), small.flatten(1).t()]), *factors[:1], factors[1:], share,
    ]  # fmt: skip
    numbers = (case.batch, case.heads, case.query_channels, case.value_channels, case.height, case.width, case.small)
    message = np.array([*numbers, case.kernel, CHANNELS], np.int64).tobytes()
    message += b"".join(t.contiguous().numpy().tobytes() for t in sent)
    done = subprocess.run([EMULATOR, str(program)], input=message, capture_output=True, check=True, timeout=100)
    answer = torch.from_numpy(np.frombuffer(done.stdout, np.float32).copy())

    def take(*shape: int) -> Tensor:
        nonlocal answer
        taken, answer = answer.split([torch.Size(shape).numel(), answer.numel() - torch.Size(shape).numel()])
        return taken.view(shape)

    def take_map(channels: int) -> Tensor:
        return take(case.batch, case.height, case.width, channels).permute(0, 3, 1, 2)

    wanted = truth(case, torch.float32)
    assert relative_rms(take_map(value.shape[1]), wanted["output"]) < 5e-7
    assert relative_rms(take_map(query.shape[1]), wanted["query"]) < 2e-6
    assert relative_rms(take_map(value.shape[1]), wanted["value"]) < 2e-6
    d_projected = take(len(keys), len(proj_bias))
    assert relative_rms(d_projected.t() @ keys, wanted["proj_weight"]) < 2e-6
    assert relative_rms(take(case.batch * case.heads, len(proj_bias)).sum(0), wanted["proj_bias"]) < 2e-6
    assert relative_rms(take(case.batch, *rpb1.shape).sum(0), wanted["rpb1"]) < 2e-6
    assert relative_rms(take(case.batch, *rpb2.shape).sum(0), wanted["rpb2"]) < 2e-6
    wide = x.double()
    convolved = F.conv2d(wide, large.double(), bias.double(), padding=case.kernel // 2, groups=CHANNELS)
    assert relative_rms(take_map(CHANNELS), convolved) < 1e-6
    gradient = conv2d_weight(wide, large.shape, d_y.double(), 1, case.kernel // 2, 1, CHANNELS)
    got = take(case.kernel, case.kernel, CHANNELS).permute(2, 0, 1)[:, None]
    assert relative_rms(got, gradient) < 1e-6
    normalised = defined(x, gamma.view(1, -1, 1, 1), None, (small, bias))
    assert relative_rms(take_map(CHANNELS), normalised) < 2e-7

    def convolve(y: Tensor, weight: Tensor, own_bias: Tensor) -> Tensor:
        groups = y.shape[1] // weight.shape[1]
        return F.conv2d(y, weight.double(), own_bias.double(), padding=weight.shape[-1] // 2, groups=groups)

    residual = convolve(d_y.double(), small, bias)
    y = F.layer_norm(last(residual), (CHANNELS,), gamma.double(), bias.double(), 1e-6).permute(0, 3, 1, 2)
    y = convolve(y, large, bias)
    gate = F.gelu(convolve(y.mean((2, 3), keepdim=True), squeeze[..., None, None], squeeze_bias))
    y = F.gelu(convolve(y * convolve(gate, excite[..., None, None], bias).sigmoid(), up[..., None, None], up_bias))
    y = defined(y, up_bias.view(1, -1, 1, 1), None, (hidden_taps, up_bias))
    block = residual * gamma.double().view(1, -1, 1, 1) + convolve(y, down[..., None, None], bias)
    assert relative_rms(take_map(CHANNELS), block) < 1e-6

    given = [t.double().requires_grad_() for t in (x, small, bias, gamma.view(1, -1, 1, 1), beta.view(1, -1, 1, 1))]
    identity = F.pad(torch.ones(1, 1, 1, 1), [1] * 4)
    out = hidden(given[0], given[1] - identity, *given[2:])
    assert relative_rms(take_map(CHANNELS), out) < 5e-7
    d_x, d_small, *others = torch.autograd.grad(out, given, d_y.double())
    assert relative_rms(take_map(CHANNELS), d_x) < 5e-7
    assert relative_rms(take(case.batch, 9, CHANNELS).sum(0).t(), d_small.flatten(1)) < 1e-6
    for wanted_sum in others:
        assert relative_rms(take(case.batch, CHANNELS).sum(0), wanted_sum.flatten()) < 1e-6

    weights = [t.double().requires_grad_() for t in (large, small)]
    wide.requires_grad_()
    branches = [
        F.conv2d(wide, weight, None, 1, r * (weight.shape[-1] // 2), r, CHANNELS)
        for weight, r in zip(weights, (1, 2), strict=True)
    ]
    outputs = torch.stack(branches, 1)  # B, 2, C, H, W
    means, squares = (take(case.batch, 2, CHANNELS) for _ in range(2))
    assert relative_rms(means, outputs.mean((3, 4))) < 1e-6
    assert relative_rms(squares, outputs.var((3, 4), correction=0) * case.height * case.width) < 1e-6
    assert relative_rms(take(case.batch, CHANNELS), d_y.double().sum((2, 3))) < 1e-6
    centred = outputs - factors[0].view(1, 2, CHANNELS, 1, 1)
    assert relative_rms(take(case.batch, 2, CHANNELS), (centred * d_y[:, None].double()).sum((3, 4))) < 1e-6
    of, along, shift = (t.double().view(1, 2, CHANNELS, 1, 1) for t in factors[1:])
    d_x, *d_weights = torch.autograd.grad(
        outputs, [wide, *weights], of * d_y[:, None].double() + along * outputs.detach() + shift
    )
    assert relative_rms(take_map(CHANNELS), d_x) < 1e-6
    taps = take(case.batch, case.kernel**2 + 9, CHANNELS).sum(0)
    for got, d_weight in zip(taps.split([case.kernel**2, 9]), d_weights, strict=True):
        assert relative_rms(got.t(), d_weight.flatten(1)) < 2e-6

    grad, scale, shares = d_y.double(), bias.double().view(-1, 1, 1), share.double().view(-1, 1, 1, 1)
    joined = x.double() * scale + gamma.double().view(-1, 1, 1) + shares * grad
    for joined_or_gradient in (joined, grad * scale, grad * shares):
        assert relative_rms(take_map(CHANNELS), joined_or_gradient) < 2e-7
    for of_channel in (grad * x.double(), grad):
        assert relative_rms(take(case.batch, CHANNELS).sum(0), of_channel.sum((0, 2, 3))) < 1e-6
    assert answer.numel() == 0
