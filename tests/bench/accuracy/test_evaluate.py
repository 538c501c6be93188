"""Evaluation as a library: one decode for all, whole batches kept, dead workers, subsets, spoiled outputs."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.data import IMAGENET_DEFAULT_MEAN as MEAN
from timm.data import IMAGENET_DEFAULT_STD as STD
from torch import Tensor, nn

from bench.accuracy import predictions as pred
from bench.accuracy import report
from bench.accuracy.data import ImageSet, open_images
from bench.accuracy.evaluate import Classifier, Conditions, Run, evaluate, header
from bench.accuracy.predictions import Predictions, open_store
from bench.accuracy.recipes import Geometry, Recipe
from bench.cli import BadInput
from bench.torchrun import Workers


class Projection(nn.Module):
    """Random features of the image: predictions that depend on every pixel, at no cost."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(3 * 16, classes, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(x, 4).flatten(1) @ self.weight


def recipe(size: int = 32, crop_pct: float = 0.875) -> Recipe:
    return Recipe(Geometry((size, size), crop_pct, "center", "bicubic"), MEAN, STD)


def run_of(
    images: ImageSet, folder: Path, conditions: Conditions, model: nn.Module | None = None, at: Recipe | None = None
) -> Run:
    at = at or recipe()
    about = header("net", "train", at, "random", images, conditions)
    classifier = Classifier(model or Projection(), at, conditions, images.subset)
    return Run(classifier, open_store(folder, about, len(images), conditions.batch))


def evaluated(images: ImageSet, run: Run, conditions: Conditions) -> Predictions:
    (found,), _ = evaluate(images, [run], conditions, Workers())
    run.store.close()
    return found


class Counting:
    """A source that counts what is read."""

    def __init__(self, source: Any) -> None:
        self.source, self.read_of = source, Counter[int]()
        self.names, self.sizes, self.labels = source.names, source.sizes, source.labels

    def read(self, i: int) -> bytes:
        self.read_of[i] += 1
        return bytes(self.source.read(i))


def test_an_image_is_decoded_once_for_all_models(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = open_images(tree, "custom")
    source = Counting(images.source)
    images = replace(images, source=source)
    transformed = Counter[Geometry]()
    make = Geometry.transform

    def counted(self: Geometry) -> Any:
        transform = make(self)
        return lambda image: transformed.update([self]) or transform(image)

    monkeypatch.setattr(Geometry, "transform", counted)
    conditions = Conditions(batch=8, workers=0)
    recipes = [recipe(), recipe(), recipe(48), recipe(32, 1.0)]
    runs = [run_of(images, tmp_path / str(i), conditions, at=at) for i, at in enumerate(recipes)]
    evaluate(images, runs, conditions, Workers())
    assert source.read_of == Counter(dict.fromkeys(range(40), 1))
    assert transformed == Counter(dict.fromkeys((r.geometry for r in set(recipes)), 40))


def test_models_together_predict_what_each_does_alone(tree: Path, tmp_path: Path) -> None:
    images, conditions = open_images(tree, "custom"), Conditions(batch=16, workers=2)
    recipes = [recipe(), recipe(48), recipe(32, 1.0)]
    runs = [run_of(images, tmp_path / f"all{i}", conditions, at=at) for i, at in enumerate(recipes)]
    together, _ = evaluate(images, runs, conditions, Workers())
    for i, at in enumerate(recipes):
        alone = evaluated(images, run_of(images, tmp_path / f"one{i}", conditions, at=at), conditions)
        assert np.array_equal(alone.rows, together[i].rows)
    assert not np.array_equal(together[0].rows["top5"], together[1].rows["top5"])


def test_ranks_and_predictions(tree: Path, tmp_path: Path) -> None:
    """Against a plain sort of the logits, in the order of the definition."""
    images, conditions = open_images(tree, "custom"), Conditions(batch=16, workers=0)
    model = Projection()
    got = evaluated(images, run_of(images, tmp_path, conditions, model), conditions)
    from timm.data import create_transform

    transform = create_transform(32, crop_pct=0.875, interpolation="bicubic", mean=MEAN, std=STD)
    from PIL import Image

    for i, name in enumerate(images.source.names):
        logits = model(transform(Image.open(tree / name).convert("RGB"))[None])[0]
        row = got.rows[i]
        assert row["top5"].tolist() == logits.topk(5).indices.tolist()
        assert row["rank"] == int((logits > logits[images.labels[i]]).sum())
        assert row["label"] == images.labels[i]


def test_equal_logits_are_ordered_by_class(tree: Path, tmp_path: Path) -> None:
    class Level(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.zeros(len(x), 1000)

    images, conditions = open_images(tree, "custom"), Conditions(batch=16, workers=0)
    got = evaluated(images, run_of(images, tmp_path, conditions, Level()), conditions)
    assert got.rows["rank"].tolist() == images.labels
    assert (got.rows["top5"] == range(5)).all()


def test_a_subset_confines_predictions(tree: Path, tmp_path: Path) -> None:
    images, conditions = open_images(tree, "custom"), Conditions(batch=16, workers=0)
    few = tuple(sorted(set(images.labels)))
    confined = replace(images, subset=few)
    got = evaluated(confined, run_of(confined, tmp_path / "few", conditions), conditions)
    all_classes = evaluated(images, run_of(images, tmp_path / "all", conditions), conditions)
    assert set(got.rows["top5"].flatten().tolist()) <= set(few)
    assert not set(all_classes.rows["top5"].flatten().tolist()) <= set(few)
    assert got.rows["rank"].max() < len(few)
    assert got.correct(1).sum() > all_classes.correct(1).sum()


def test_outputs_that_are_not_finite_never_count(tree: Path, tmp_path: Path) -> None:
    class Spoiled(Projection):
        def forward(self, x: Tensor) -> Tensor:
            logits = super().forward(x)
            logits[::3, 5] = torch.nan
            return logits

    images, conditions = open_images(tree, "custom"), Conditions(batch=8, workers=0)
    got = evaluated(images, run_of(images, tmp_path, conditions, Spoiled()), conditions)
    spoiled = np.arange(40) % 8 % 3 == 0
    assert ((got.rows["status"] == pred.NOT_FINITE) == spoiled).all()
    assert not got.correct(5)[spoiled].any()
    assert got.evaluated.all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "amp-bfloat16"])
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_dtypes_and_layouts(dtype: str, layout: str, tree: Path, tmp_path: Path) -> None:
    images = open_images(tree, "custom")
    plain = Conditions(batch=20, workers=0)
    conditions = Conditions(batch=20, workers=0, dtype=dtype, layout=layout)
    want = evaluated(images, run_of(images, tmp_path / "plain", plain), plain)
    got = evaluated(images, run_of(images, tmp_path / "other", conditions), conditions)
    same = (want.rows["top5"][:, 0] == got.rows["top5"][:, 0]).mean()
    assert same >= 0.85  # classes whose logits are nearer than the dtype's precision may change places


def test_a_model_of_too_few_classes_is_refused(tree: Path) -> None:
    with pytest.raises(BadInput, match="labels go up to 18, and the model has 10 classes"):
        Classifier(Projection(10), recipe(), Conditions()).check(open_images(tree, "custom").labels)


class Deadly(Counting):
    """A source that ends the process that reads image `at`, as the kernel does when memory is short."""

    def __init__(self, source: Any, at: int) -> None:
        super().__init__(source)
        self.at = at

    def read(self, i: int) -> bytes:
        if i == self.at:
            os._exit(9)
        return super().read(i)


def test_a_decoder_that_dies_loses_nothing_counted(tree: Path, tmp_path: Path) -> None:
    images, conditions = open_images(tree, "custom"), Conditions(batch=4, workers=1)
    deadly = replace(images, source=Deadly(images.source, at=30))
    run = run_of(deadly, tmp_path / "a", conditions)
    with pytest.raises(BadInput, match="died"):
        evaluated(deadly, run, conditions)
    run.store.close()
    again = run_of(images, tmp_path / "a", conditions)
    kept = len(again.store.results)
    assert 0 < kept < 8
    resumed = evaluated(images, again, conditions)
    whole = evaluated(images, run_of(images, tmp_path / "b", conditions), conditions)
    assert np.array_equal(resumed.rows, whole.rows)
    assert folders_equal(tmp_path / "a", tmp_path / "b")


def folders_equal(a: Path, b: Path) -> bool:
    """Same names, same bytes."""
    files = [{p.name: p.read_bytes() for p in folder.iterdir()} for folder in (a, b)]
    return files[0] == files[1]


@pytest.mark.parametrize("cut", [0, 1, pred.ROW.itemsize * 3, pred.ROW.itemsize * 8 + 5])
def test_what_a_kill_cuts_short_is_done_again(cut: int, tree: Path, tmp_path: Path) -> None:
    """A part ends anywhere: whole batches stay, the rest goes."""
    images, conditions = open_images(tree, "custom"), Conditions(batch=8, workers=0)
    whole = evaluated(images, run_of(images, tmp_path / "whole", conditions), conditions)
    run = run_of(images, tmp_path / "cut", conditions)
    run.store.add(0, whole.rows[:8])
    run.store.close()
    (tmp_path / "cut" / "part-0.bin").write_bytes(whole.rows[: 16 + 8].tobytes()[: 16 * pred.ROW.itemsize + cut])
    run = run_of(images, tmp_path / "cut", conditions)
    assert set(run.store.results) == ({0, 1, 2} if cut >= 8 * pred.ROW.itemsize else {0, 1})
    resumed = evaluated(images, run, conditions)
    assert np.array_equal(resumed.rows, whole.rows)
    assert folders_equal(tmp_path / "whole", tmp_path / "cut")


def test_a_finished_run_is_not_done_again(tree: Path, tmp_path: Path) -> None:
    images, conditions = open_images(tree, "custom"), Conditions(batch=8, workers=0)
    first = evaluated(images, run_of(images, tmp_path, conditions), conditions)
    source = Counting(images.source)
    again = replace(images, source=source)
    second = evaluated(again, run_of(again, tmp_path, conditions), conditions)
    assert np.array_equal(first.rows, second.rows)
    assert first.header == second.header
    assert not source.read_of


def test_two_runs_do_not_share_a_folder_at_once(tree: Path, tmp_path: Path) -> None:
    images, conditions = open_images(tree, "custom"), Conditions(batch=8)
    run = run_of(images, tmp_path, conditions)
    with pytest.raises(BadInput, match="another run is writing"):
        run_of(images, tmp_path, conditions)
    run.store.close()
    run_of(images, tmp_path, conditions).store.close()


BROKEN: dict[str, Any] = {
    "empty": lambda whole: b"",
    "cut short": lambda whole: whole[: len(whole) // 2],
    "no image": lambda whole: b"<html>404</html>",
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named_and_counted(kind: str, workers: int, tree: Path, tmp_path: Path) -> None:
    shutil.copytree(tree, tmp_path / "val")
    intact, conditions = open_images(tree, "custom"), Conditions(batch=8, workers=workers)
    broken = [11, 12, *range(16, 24)]  # some of a batch, and a whole one
    for i in broken:
        path = tmp_path / "val" / intact.source.names[i]
        path.write_bytes(BROKEN[kind](path.read_bytes()))
    images = open_images(tmp_path / "val", "custom")
    want = evaluated(intact, run_of(intact, tmp_path / "a", conditions), conditions)
    (got,), why = evaluate(images, [run_of(images, tmp_path / "b", conditions)], conditions, Workers())
    assert sorted(why) == broken
    assert np.flatnonzero(~got.evaluated).tolist() == broken
    assert (got.rows["rank"][broken] == pred.NO_CLASS).all()
    rest = got.evaluated
    assert np.array_equal(got.rows[rest], want.rows[rest])


def test_predictions_are_compact(tree: Path, tmp_path: Path) -> None:
    assert pred.ROW.itemsize == 19
    images: Sequence[int] = range(50_000)
    rows = np.zeros(len(images), pred.ROW)
    rng = np.random.RandomState(0)
    rows["image"], rows["label"], rows["top5"] = images, np.repeat(range(1000), 50), rng.randint(1000, size=(50_000, 5))
    header = {"model": "m", "form": "deploy", "resolution": "224", "manifest": "0"}
    store = open_store(tmp_path, header, len(rows), 50_000)
    found = pred.finish(store, {0: rows})
    assert (tmp_path / "predictions.npz").stat().st_size < 1_000_000
    assert np.array_equal(pred.read(tmp_path / "predictions.npz").rows, found.rows)
    store.close()
    (tmp_path / "predictions.npz").write_bytes(b"PK")
    with pytest.raises(BadInput, match="no file of predictions"):
        pred.read(tmp_path / "predictions.npz")


@pytest.mark.parametrize(
    ("trained", "fine_tuned", "told"),
    [
        (224, False, "weights trained at 224, evaluated at 32"),
        (32, True, "fine-tuned at 32"),
        (32, False, ""),
        (None, False, ""),
    ],
)
def test_the_table_says_what_size_weights_are_for(
    trained: int | None, fine_tuned: bool, told: str, tree: Path, tmp_path: Path
) -> None:
    images, conditions = open_images(tree, "custom"), Conditions(batch=40, workers=0)
    about = header("net", "train", recipe(), "w", images, conditions, trained_at=trained, fine_tuned=fine_tuned)
    run = Run(Classifier(Projection(), recipe(), conditions), open_store(tmp_path, about, 40, 40))
    told_of = report.notes(evaluated(images, run, conditions), images.source.names)
    assert len(told_of) == bool(told)
    assert told in "".join(told_of)
