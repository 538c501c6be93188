"""The MLP in two passes over the hidden map, against the folded MLP in float64: in Triton's interpreter."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch

from overlock.inference import fusions, mlp_triton
from overlock.inference.blocks import FoldedMLP
from overlock.layers import GRN, LayerScale, ResDWConv
from tests.golden_tools import fill
from tests.overlock.contmix.cases import relative_rms
from tests.overlock.contmix.test_triton import interpreter  # noqa: F401 (a fixture)

pytest.importorskip("triton")
TOLERANCES = {torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 1.5e-3}


@pytest.fixture
def using() -> Iterator[None]:
    fusions.use("mlp")
    yield
    fusions.use("none")


def folded(channels: int) -> FoldedMLP:
    hidden = 4 * channels
    up, down = torch.nn.Conv2d(channels, hidden, 1), torch.nn.Conv2d(hidden, channels, 1)
    layers = fill(torch.nn.Sequential(up, ResDWConv(hidden, 3), GRN(hidden), down, LayerScale(channels)))
    return FoldedMLP(*layers)  # type: ignore[arg-type]


def check(shape: tuple[int, ...], dtype: torch.dtype, scaled: bool, device: str = "cpu") -> None:
    mlp = folded(shape[1]).to(dtype)
    generator = torch.Generator().manual_seed(1)
    x, residual = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    scale = torch.linspace(0.5, 1.5, shape[1]).view(1, -1, 1, 1).to(dtype) if scaled else None
    wide = copy.deepcopy(mlp).double()
    factor = torch.linspace(0.1, 1, shape[0] * shape[1]).view(*shape[:2], 1, 1).to(dtype) if scaled else None
    given = scale, factor
    wanted = wide(residual.double(), x.double(), *(None if t is None else t.double() for t in given))
    maps = [t.to(device).contiguous(memory_format=torch.channels_last) for t in (residual, x)]
    assert fusions.why_not("mlp", *maps) is None
    out = mlp.to(device)(*maps, *(None if t is None else t.to(device) for t in given))
    assert out.data_ptr() == maps[0].data_ptr(), "in place"
    assert out.dtype == dtype
    assert relative_rms(out, wanted) < TOLERANCES[dtype]


@pytest.mark.usefixtures("interpreter", "using")
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(
    ("shape", "scaled"),
    [((2, 4, 3, 5), True), ((1, 5, 1, 1), False), ((2, 9, 5, 4), True)],  # odd widths; blocks that are not full
    ids=str,
)
def test_against_the_folded_mlp(shape: tuple[int, ...], scaled: bool, dtype: torch.dtype) -> None:
    check(shape, dtype, scaled)


@pytest.mark.usefixtures("interpreter", "using")
def test_several_blocks_of_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TOKENS", "COLUMNS", "DEPTH", "POSITIONS", "CHANNELS"):
        monkeypatch.setattr(mlp_triton, name, 16)
    check((2, 9, 5, 4), torch.float32, True)


@pytest.mark.gpu
@pytest.mark.usefixtures("using")
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("shape", [(4, 64, 56, 56), (4, 128, 28, 28), (4, 320, 14, 14), (4, 640, 7, 7)], ids=str)
def test_on_a_gpu(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    check(shape, dtype, True, "cuda")
