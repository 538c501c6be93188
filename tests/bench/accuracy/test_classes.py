"""Checkpoints of any number of classes: a training's own file, judged by `bench.top1` as the training judged it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from bench import cli, top1, train_imagenet
from bench.cli import BadInput

MODEL = "test_resnet"


@pytest.fixture(scope="module", params=[3, 10])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, int]:
    """Digits, a checkpoint that was trained on some of them, and how many classes there are."""
    root, classes = tmp_path_factory.mktemp("digits"), request.param
    data = load_digits(n_class=classes)
    for i, (image, label) in enumerate(zip(data.images[:90], data.target[:90], strict=True)):
        folder = root / ("val" if i % 3 == 2 else "train") / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 15.9).astype(np.uint8)).resize((32, 32)).save(folder / f"{i}.png")
    given = ["--model", MODEL, "--data", str(root), "--output", str(root / "run"), "--epochs", "6", "--cooldown", "0"]
    given += ["--warmup", "0", "--batch-size", "20", "--lr", "0.5", "--resolution", "32", "--workers", "0"]
    assert (
        train_imagenet.main([*given, "--mixup", "0", "--cutmix", "0", "--ema-decay", "0", "--threads", "1"]) == cli.OK
    )
    return root, root / "run" / "last.pth", classes


def arguments(root: Path, results: Path, weights: str) -> list[str]:
    return [
        "--models", MODEL, "--data", str(root / "val"), "--dataset", "custom", "--weights", weights,
        "--resolutions", "32", "--workers", "0", "--threads", "1", "--results", str(results), "--format", "json",
    ]  # fmt: skip


def test_top1_is_what_the_training_saw(
    trained: tuple[Path, Path, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, weights, classes = trained
    with (root / "run" / "log.csv").open(newline="") as file:
        seen = float(list(csv.DictReader(file))[-1]["top1"])
    assert top1.main([*arguments(root, tmp_path, str(weights)), "--num-classes", str(classes)]) == cli.OK
    values = {r["metric"]: r for r in json.loads(capsys.readouterr().out)["records"]}
    assert values["top1"]["value"] == pytest.approx(seen)
    assert values["top5"]["value"] >= seen
    if classes < 5:
        assert values["top5"]["value"] == 100


def test_the_number_of_classes_is_asked_for(trained: tuple[Path, Path, int], tmp_path: Path) -> None:
    root, weights, classes = trained
    with pytest.raises(BadInput, match=f"it has {classes} classes and the model 1000"):
        top1.main(arguments(root, tmp_path, str(weights)))
    with pytest.raises(BadInput, match="imagenet has its own: give --dataset custom"):
        top1.main(["--models", "overlock_xt", "--data", str(root), "--num-classes", "10"])
    with pytest.raises(BadInput, match="released weights have 1000 classes: give --weights overlock_xt=PATH"):
        top1.main(["--models", "overlock_xt", "--data", str(root / "val"), "--dataset", "custom", "--num-classes", "7"])
