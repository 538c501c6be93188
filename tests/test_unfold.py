"""The yardstick of the benchmarks computes the same thing: otherwise its times would say nothing."""

from __future__ import annotations

import pytest
import torch

from overlock.contmix import Inputs
from tests.benchmarks import unfold
from tests.overlock.contmix.cases import SCALE, Case, relative_rms, truth


@pytest.mark.parametrize(
    "case", [Case(7, 7, 7), Case(14, 14, 13), Case(9, 16, 7, heads=3), Case(13, 21, 13, batch=1)], ids=str
)
def test_whole_operator(case: Case) -> None:
    inputs = case.inputs(requires_grad=True)
    out = unfold.contmix(*inputs, SCALE)
    wanted = truth(case, torch.float64)
    assert relative_rms(out, wanted["output"]) < 1e-12
    for name, gradient in zip(Inputs._fields, torch.autograd.grad(out, inputs, case.output_gradient()), strict=True):
        assert relative_rms(gradient, wanted[name]) < 1e-11, name
