"""Inputs of ContMix to test with, and what the definition gives for them in float64."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import pytest
import torch
from torch import Tensor

from overlock.contmix import BACKENDS, Inputs, reference

SCALE = 0.4


@dataclass(frozen=True)
class Case:
    """One shape: B images, G heads of cq query and cv value channels, an H x W map, a k x k and a K x K kernel."""

    height: int
    width: int
    kernel: int
    batch: int = 2
    heads: int = 2
    query_channels: int = 3
    value_channels: int = 4
    small: int = 5
    regions: int = 7

    def __str__(self) -> str:
        return f"{self.batch}x{self.heads}x{self.height}x{self.width}-k{self.kernel}"

    def shapes(self) -> tuple[tuple[int, ...], ...]:
        b, g, taps = self.batch, self.heads, self.small**2 + self.kernel**2
        return (
            (b, g * self.query_channels, self.height, self.width),
            (b, g * self.query_channels, self.regions, self.regions),
            (b, 2 * g * self.value_channels, self.height, self.width),
            (taps, self.regions**2),
            (taps,),
            (g, 2 * self.small - 1, 2 * self.small - 1),
            (g, 2 * self.kernel - 1, 2 * self.kernel - 1),
        )

    def inputs(self, dtype: torch.dtype = torch.float64, requires_grad: bool = False) -> Inputs:
        """The seven tensors, of a size that makes the softmax neither flat nor hard."""
        generator = torch.Generator().manual_seed(self.height * 100 + self.width)
        tensors = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in self.shapes()]
        tensors[3] /= self.regions
        return Inputs(*(x.to(dtype).requires_grad_(requires_grad) for x in tensors))

    def output_gradient(self, dtype: torch.dtype = torch.float64) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        return torch.randn(self.shapes()[2], generator=generator, dtype=torch.float64).to(dtype)


@lru_cache(maxsize=4)
def truth(case: Case, dtype: torch.dtype) -> dict[str, Tensor]:
    """Output and gradients by the definition, in float64, of the inputs as `dtype` rounds them."""
    inputs = Inputs(*(x.double().requires_grad_() for x in case.inputs(dtype)))
    out = reference.forward(inputs, SCALE)
    gradients = torch.autograd.grad(out, inputs, case.output_gradient(dtype).double())
    return {"output": out.detach(), **Inputs(*gradients)._asdict()}


def widest(backend: str) -> torch.dtype:
    """Float64 where a backend computes in it."""
    able = backend == "auto" or BACKENDS[backend].why_not(torch.zeros(1, dtype=torch.float64)) is None
    return torch.float64 if able else torch.float32


def skip_if_unable(backend: str, value: Tensor) -> None:
    """Skip where a backend says that it cannot run."""
    reason = None if backend == "auto" else BACKENDS[backend].why_not(value)
    if reason is not None:
        pytest.skip(reason)


def relative_rms(got: Tensor, want: Tensor) -> float:
    """Root of the mean squared difference over that of `want`."""
    assert got.shape == want.shape, f"shape {tuple(got.shape)} where {tuple(want.shape)} is expected"
    return ((got.detach().double().cpu() - want).norm() / want.norm()).item()
