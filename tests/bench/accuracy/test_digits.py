"""A small OverLoCK, trained here on scikit-learn's handwritten digits, evaluated by the harness from image files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

import overlock
from bench.accuracy.data import ImageSet, open_images
from bench.accuracy.evaluate import Classifier, Conditions, Run, evaluate, header
from bench.accuracy.paired import compare
from bench.accuracy.predictions import open_store
from bench.accuracy.recipes import Geometry, Recipe
from bench.torchrun import Workers
from overlock import OverLoCK

SIZE, TRAINED_ON, EPOCHS, BATCH = 32, 1200, 3, 32
MEAN, STD = (0.3, 0.3, 0.3), (0.35, 0.35, 0.35)
RECIPE = Recipe(Geometry((SIZE, SIZE), 1.0, "center", "bicubic"), MEAN, STD)


def small() -> OverLoCK:
    torch.manual_seed(0)
    return OverLoCK(
        depth=(1, 1, 1, 1),
        sub_depth=(2, 1),
        dims=(16, 32, 32, 64),
        sub_num_heads=(2, 4),
        num_classes=10,
        mlp_ratio=2,
        aux_head=True,
    )


def write(root: Path) -> ImageSet:
    """All digits as greyscale PNG files, in class folders, in the order of the data set by name."""
    digits = load_digits()
    for i, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        (root / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 15.9).astype(np.uint8)).resize((24, 24)).save(root / str(label) / f"{i:04d}.png")
    return open_images(root, "custom")


def tensors(images: ImageSet, indices: list[int]) -> tuple[Tensor, Tensor]:
    from bench.accuracy.loader import decode

    transform = RECIPE.geometry.transform()
    x = torch.stack([torch.as_tensor(transform(decode(images.source.read(i)))) for i in indices]).float() / 255
    return (x - MEAN[0]) / STD[0], torch.tensor([images.labels[i] for i in indices])


def train(model: OverLoCK, x: Tensor, y: Tensor) -> list[tuple[float, float]]:
    """Main and auxiliary loss of each epoch."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    steps = EPOCHS * -(-len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(0)
    model.train()
    losses = []
    for _ in range(EPOCHS):
        epoch = []
        for taken in torch.randperm(len(x), generator=generator).split(BATCH):
            out = model(x[taken])
            main, aux = (F.cross_entropy(out[head], y[taken]) for head in ("main", "aux"))
            optimiser.zero_grad()
            (main + 0.4 * aux).backward()
            optimiser.step()
            schedule.step()
            epoch.append((main.item(), aux.item()))
        losses.append(tuple(np.mean(epoch, axis=0).tolist()))
    return losses


@pytest.mark.slow
def test_learns_and_is_judged_rightly(tmp_path: Path) -> None:
    images = write(tmp_path / "digits")
    digit = [int(Path(name).stem) for name in images.source.names]
    seen = [i for i, number in enumerate(digit) if number < TRAINED_ON]
    held_out = write_rest(images, digit, tmp_path / "test")
    model = small()
    losses = train(model, *tensors(images, seen))
    chance = np.log(10)
    assert losses[0][0] < chance + 0.3
    assert losses[-1][0] < 0.4 * chance, losses
    assert losses[-1][1] < 0.7 * chance, losses
    conditions = Conditions(batch=64, workers=1)
    runs = []
    for form, network in {"train": model.eval(), "deploy": overlock.deploy(model.eval())}.items():
        about = header("digits", form, RECIPE, "trained", held_out, conditions)
        runs.append(Run(Classifier(network, RECIPE, conditions), open_store(tmp_path / form, about, len(held_out), 64)))
    (trained, deployed), _ = evaluate(held_out, runs, conditions, Workers())
    x, y = tensors(held_out, list(range(len(held_out))))
    with torch.inference_mode():
        right = (model(x).argmax(1) == y).sum().item()
    assert trained.correct(1).sum() == right
    assert 0.5 < right / len(y) < 1.0, "neither chance nor perfect"
    assert trained.correct(5).sum() > right
    comparison = compare(deployed, trained)
    assert comparison.agree >= 0.998
    print(f"top-1 {100 * right / len(y):.1f} % of {len(y)}; losses {losses[0]} -> {losses[-1]}; {comparison}")


def write_rest(images: ImageSet, digit: list[int], root: Path) -> ImageSet:
    """The digits that training has not seen."""
    for i, number in enumerate(digit):
        if number >= TRAINED_ON:
            path = root / images.source.names[i]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(images.source.read(i))
    return open_images(root, "custom")
