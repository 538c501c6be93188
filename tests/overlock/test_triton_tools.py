"""What is made of a weight once."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from overlock import triton_tools
from overlock.contmix import fused
from overlock.triton_tools import prepared
from tests.overlock.contmix.cases import Case


def counted(weight: Tensor) -> tuple[Callable[[], Tensor], list[int]]:
    made: list[int] = []

    def make() -> Tensor:
        made.append(1)
        return weight * 2

    return make, made


def test_a_weight_is_prepared_once_and_again_when_it_changes() -> None:
    weight = torch.ones(3)
    make, made = counted(weight)
    assert prepared(weight, "a", make) is prepared(weight, "a", make)
    assert len(made) == 1
    prepared(weight, "b", make)
    assert len(made) == 2, "another use of it"
    weight.mul_(3)
    assert torch.equal(prepared(weight, "a", make), weight * 2)
    weight.data = torch.full((3,), 7.0)
    assert torch.equal(prepared(weight, "a", make), weight * 2)


def test_what_is_never_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.inference_mode():
        made_there = torch.ones(3)
    for weight in (torch.ones(3, requires_grad=True), made_there):
        make, made = counted(weight)
        assert prepared(weight, "a", make) is not prepared(weight, "a", make)
        assert len(made) == 2


class OnCuda(torch.Tensor):
    """A tensor that says that it is on a CUDA device."""

    is_cuda = True  # type: ignore[assignment]


def test_a_captured_graph_reads_what_was_made_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is neither made again at every replay nor freed while a replay may read it."""
    capturing = False
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
    weight = torch.ones(3).as_subclass(OnCuda)
    make, made = counted(weight)
    before = prepared(weight, "a", make)
    capturing = True
    assert prepared(weight, "a", make) is before
    assert prepared(weight, "b", make) is not prepared(weight, "b", make), "the graph's own memory"
    assert len(made) == 3
    capturing = False
    prepared(weight.mul_(2), "a", make)
    alive = weakref.ref(before)
    del before
    gc.collect()
    assert alive() is not None, "the graph may be replayed"
    del weight, make
    gc.collect()
    assert alive() is None


def test_what_was_prepared_goes_with_its_weight() -> None:
    before = len(triton_tools._prepared)
    weight = torch.ones(3)
    prepared(weight, "a", lambda: torch.zeros(2))
    assert len(triton_tools._prepared) == before + 1
    del weight
    gc.collect()
    assert len(triton_tools._prepared) == before


@pytest.mark.parametrize("kernel", [7, 13])
@pytest.mark.parametrize("padded", [False, True])
def test_projected_keys_of_aligned_rows(kernel: int, padded: bool) -> None:
    """49 regions become 56, whole 16 bytes in any dtype, with the same products, in either layout of one weight."""
    inputs = Case(14, 14, kernel).inputs(torch.float32)
    keys = fused._keys(inputs)
    assert keys.shape[1] == 56
    branches = [fused._Branch(i, inputs) for i in (0, 1)]
    for again in (not padded, padded):
        projected = fused._projected(keys, branches, (again, again))
    assert projected[0][0]._base is projected[1][0]._base, "one product"
    for own, branch, (pk, places) in zip((slice(25), slice(25, None)), branches, projected, strict=True):
        k, columns = branch.k, branch.padding(padded)[0]
        assert pk.shape[1] == places["PITCH"] >= k * columns
        assert pk.stride(0) == places["STRIDE"]
        wanted = inputs.key.reshape(-1, 49) @ inputs.proj_weight[own].t()
        got = pk[:, : k * columns].unflatten(1, (k, columns))[:, :, :k].flatten(1)
        torch.testing.assert_close(got, wanted)
        assert pk.stride(0) % 8 == pk.storage_offset() % 8 == 0


@pytest.mark.parametrize(
    ("dtype", "channels", "step"),
    [(torch.bfloat16, 512, 64), (torch.float16, 24, 32), (torch.float32, 512, 16), (torch.float32, 8, 16)],
)
def test_a_step_of_a_float32_product_takes_fewer_channels(dtype: torch.dtype, channels: int, step: int) -> None:
    """As many as of bfloat16 made the compiler spill 5,440 bytes a thread, for sums of single multiply-adds."""
    assert triton_tools.depth(torch.empty(1, dtype=dtype), channels, 64) == step
