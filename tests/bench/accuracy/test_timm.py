"""The same images through timm's own validation path give the same prediction for every image."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN as MEAN
from timm.data import IMAGENET_DEFAULT_STD as STD
from timm.data import create_dataset, create_loader
from torch import nn

import overlock  # noqa: F401 (registers its models)
from bench.accuracy.data import open_images
from bench.accuracy.evaluate import Classifier, Conditions, Run, evaluate, header
from bench.accuracy.predictions import Predictions, open_store
from bench.accuracy.recipes import Geometry, Recipe
from bench.loading import randomise
from bench.torchrun import Workers

INCEPTION = (0.5, 0.5, 0.5)
RECIPES = {
    "64 center 0.875": Recipe(Geometry((64, 64), 0.875, "center", "bicubic"), MEAN, STD),
    "96 center 0.95": Recipe(Geometry((96, 96), 0.95, "center", "bicubic"), MEAN, STD),
    "72 center 1.0": Recipe(Geometry((72, 72), 1.0, "center", "bilinear"), MEAN, STD),
    "96 squash 1.0": Recipe(Geometry((96, 96), 1.0, "squash", "bicubic"), MEAN, STD),
    "64x96 center 0.9": Recipe(Geometry((64, 96), 0.9, "center", "bicubic"), INCEPTION, INCEPTION),
}


@cache
def network(name: str) -> nn.Module:
    model = timm.create_model(name).eval()
    randomise(model, seed=1)
    return model


def ours(tree: Path, name: str, recipe: Recipe, folder: Path, conditions: Conditions) -> Predictions:
    images = open_images(tree, "custom")
    about = header(name, "train", recipe, "random", images, conditions)
    run = Run(Classifier(network(name), recipe, conditions), open_store(folder, about, len(images), conditions.batch))
    (predictions,), why = evaluate(images, [run], conditions, Workers())
    assert not why
    return predictions


@torch.inference_mode()
def timms(tree: Path, name: str, recipe: Recipe, batch: int, prefetcher: bool) -> tuple[list[str], np.ndarray]:
    """Names and five best classes, in its order, as timm's validate.py builds data set and loader."""
    g = recipe.geometry
    dataset = create_dataset("", root=str(tree))
    loader = create_loader(
        dataset,
        input_size=(3, *g.size),
        batch_size=batch,
        use_prefetcher=prefetcher,
        interpolation=g.interpolation,
        mean=recipe.mean,
        std=recipe.std,
        num_workers=1,
        crop_pct=g.crop_pct,
        crop_mode=g.crop_mode,
        device=torch.device("cpu"),
    )
    logits = torch.cat([network(name)(images) for images, _ in loader])
    return dataset.filenames(), logits.topk(5).indices.numpy()


CASES = [*(("convnext_atto", recipe, 0) for recipe in RECIPES), ("overlock_xt", "64x96 center 0.9", 1)]
"""Name, recipe, processes that decode. A recipe ends in the batch that a network is given: one network has all recipes,
one of ours a single one, with a process of its own for the images."""


@pytest.mark.parametrize(("name", "of", "workers"), CASES)
def test_every_prediction_is_timms(name: str, of: str, workers: int, tree: Path, tmp_path: Path) -> None:
    recipe = RECIPES[of]
    predictions = ours(tree, name, recipe, tmp_path, Conditions(batch=8, workers=workers))
    names, top5 = timms(tree, name, recipe, batch=8, prefetcher=True)
    assert open_images(tree, "custom").source.names == names
    assert np.array_equal(predictions.rows["top5"], top5)
    assert len({tuple(row) for row in top5.tolist()}) >= 15, "predictions that hardly depend on the image show nothing"


def test_timms_loader_without_prefetcher_agrees_too(tree: Path, tmp_path: Path) -> None:
    """It normalises in another order of operations: the same prediction for these images, not the same bits."""
    recipe = RECIPES["96 center 0.95"]
    predictions = ours(tree, "convnext_atto", recipe, tmp_path, Conditions(batch=8, workers=0))
    _, top5 = timms(tree, "convnext_atto", recipe, batch=8, prefetcher=False)
    assert np.array_equal(predictions.rows["top5"][:, 0], top5[:, 0])


def test_labels_are_timms(tree: Path) -> None:
    """timm numbers the folders present; the index in the 1000 has the same order."""
    images, dataset = open_images(tree, "custom"), create_dataset("", root=str(tree))
    distinct = sorted(set(images.labels))
    assert [distinct.index(label) for label in images.labels] == [target for _, target in dataset.reader.samples]
    assert distinct == list(range(0, 20, 2))
