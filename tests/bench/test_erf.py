"""Effective receptive fields: networks whose field is known by hand, and the command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from bench import erf
from bench.cli import BadInput


def noise(count: int = 3, side: int = 32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, 3, side, side, generator=generator) for _ in range(count)]


@pytest.mark.parametrize("kernel", [1, 3, 7])
def test_the_field_of_one_convolution_is_its_kernel(kernel: int) -> None:
    model = nn.Conv2d(3, 4, kernel, padding=kernel // 2)
    nn.init.constant_(model.weight, 0.1)
    nn.init.constant_(model.bias, 10.0)  # type: ignore[arg-type]
    field = erf.receptive_field(model, iter(noise()))
    inside = slice(16 - kernel // 2, 16 + kernel // 2 + 1)
    expected = np.zeros((32, 32))
    expected[inside, inside] = 1 / kernel**2
    np.testing.assert_allclose(field, expected, atol=1e-12)
    assert erf.sides(field, [1.0]) == [kernel]


def test_only_what_raises_the_features_counts() -> None:
    model = nn.Conv2d(3, 1, 3, padding=1)
    nn.init.constant_(model.weight, 0.1)
    model.weight.data[..., 0] = -0.1  # the left column lowers them
    nn.init.constant_(model.bias, 10.0)  # type: ignore[arg-type]
    field = erf.receptive_field(model, iter(noise()))
    assert field[:, 15].sum() == 0
    assert field[15:18, 16:18].sum() == pytest.approx(1)


def test_stacked_convolutions_reach_further_and_dilation_further_still() -> None:
    torch.manual_seed(0)
    one, two = nn.Conv2d(3, 3, 3, padding=1), nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(2)))
    wide = nn.Conv2d(3, 3, 3, padding=4, dilation=4)
    for model in (one, two, wide):
        for p in model.parameters():
            nn.init.constant_(p, 0.1)
    reach = [erf.sides(erf.receptive_field(model, iter(noise())), [1.0])[0] for model in (one, two, wide)]
    assert reach == [3, 5, 9]


def test_sides_of_an_even_field() -> None:
    assert erf.sides(np.full((32, 32), 1 / 1024), [1.0]) == [32]
    wanted = erf.sides(np.full((33, 33), 1 / 1089), [0.25])
    assert wanted == [17]


def test_the_command_draws_and_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(2):
        Image.fromarray(np.full((40, 50, 3), 100 * i, np.uint8)).save(tmp_path / f"{i}.png")
    output = tmp_path / "figures" / "erf.svg"
    common = ["--models", "moganet_xt", "--resolutions", "64", "--threads", "1", "--output", str(output)]
    assert erf.main([*common, "--images", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "moganet_xt" in text
    assert "2 inputs of 2 images; random weights" in text
    assert output.stat().st_size > 1000


BAD = [
    (["--models", "overlock_xtt"], "unknown model"),
    (["--models", "vit_tiny_patch16_224"], "feature map"),
    (["--models", "moganet_xt", "--output", "erf.txt"], ".png"),
    (["--models", "moganet_xt", "--weights", "convnext_t=x"], "not among --models"),
    (["--models", "moganet_xt", "--weights", "moganet_xt=nothing.pth"], "no file"),
    (["--models", "moganet_xt", "--images", "nowhere"], "no images"),
]


@pytest.mark.parametrize(("args", "said"), BAD)
def test_bad_input(args: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=said.replace(".", r"\.")):
        erf.main([*args, "--threads", "1"])


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "damaged.png").write_bytes(b"no image")
    with pytest.raises(BadInput, match=r"damaged\.png: UnidentifiedImageError: .*; mend or remove it"):
        erf.main(["--models", "moganet_xt", "--images", str(tmp_path), "--output", str(tmp_path / "out.png")])
