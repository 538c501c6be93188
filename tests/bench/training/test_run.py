"""Training on real images, handwritten digits, whole and stopped."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from filelock import FileLock
from PIL import Image
from sklearn.datasets import load_digits

from bench import train_imagenet
from bench.accuracy.recipes import recipe_for
from bench.cli import BadInput
from bench.training import loop, state
from overlock.checkpoints.reading import read_checkpoint

MODEL = "test_resnet"  # timm's smallest


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("digits")
    data = load_digits(n_class=4)
    for i, (image, label) in enumerate(zip(data.images[:80], data.target[:80], strict=True)):
        folder = root / ("val" if i % 4 == 3 else "train") / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 15.9).astype(np.uint8)).resize((32, 32)).save(folder / f"{i}.png")
    return root


def argv(data: Path, output: Path, *more: str) -> list[str]:
    given = {
        "--model": MODEL, "--data": data, "--output": output, "--epochs": 3, "--cooldown": 1, "--warmup": 1,
        "--batch-size": 16, "--resolution": 32, "--workers": 0, "--threads": 1, "--lr": 0.05, "--print-every": 2,
    }  # fmt: skip
    return [*(str(x) for pair in given.items() for x in pair), *more]


def rows(output: Path) -> list[dict[str, str]]:
    with (output / "log.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def weights(output: Path) -> dict[str, torch.Tensor]:
    content = torch.load(output / "last.pth", weights_only=True)
    states = {kind: content[kind] for kind in ("state_dict", "state_dict_ema")}
    return {f"{kind}.{name}": value for kind, state in states.items() for name, value in state.items()}


def test_trains_validates_and_tells(digits: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert train_imagenet.main(argv(digits, tmp_path / "run")) == 0
    log = rows(tmp_path / "run")
    assert [row["epoch"] for row in log] == ["1", "2", "3", "4"]
    # warm-up from 1e-6, the cosine's last epochs, and the cooldown at the least rate
    peak = 0.05 * 16 / 1024
    assert [float(row["lr"]) for row in log] == pytest.approx([1e-6, *(loop_rate(peak, t) for t in (1, 2)), 1e-5])
    assert all(0 <= float(row[name]) <= 100 for row in log for name in ("top1", "top1_ema"))
    assert "epoch 2 of 4, step 2 of 3: loss" in caplog.text
    assert all(word in caplog.text for word in ("lr ", "images/s", " left", "top1_ema"))
    best = read_checkpoint(tmp_path / "run" / "best.pth")
    assert best.keys() == torch.load(tmp_path / "run" / "last.pth", weights_only=True)["state_dict_ema"].keys()


@pytest.mark.parametrize("better", ["state_dict", "state_dict_ema"])
def test_the_best_are_the_weights_that_reached_it(
    better: str, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a short run the averaged ones are hardly trained: what `bench.top1` reads is what the log has."""
    reached = iter((90.0, 10.0) if better == "state_dict" else (10.0, 90.0))  # first the model, then its average
    monkeypatch.setattr("bench.training.run._top1", lambda *_: next(reached))
    run = ("--epochs", "1", "--warmup", "0", "--cooldown", "0", "--ema-decay", "0.5")
    assert train_imagenet.main(argv(digits, tmp_path, *run)) == 0
    last = torch.load(tmp_path / "last.pth", weights_only=True)
    best = read_checkpoint(tmp_path / "best.pth")
    assert all(torch.equal(value, last[better][name]) for name, value in best.items())
    assert any(not torch.equal(value, last["state_dict_ema"][name]) for name, value in last["state_dict"].items())


def loop_rate(peak: float, epoch: int) -> float:
    return 1e-5 + (peak - 1e-5) * (1 + np.cos(np.pi * epoch / 3)) / 2


@pytest.mark.parametrize("stop", [4, 6, 8], ids=["mid-epoch", "at an epoch's end", "in the third epoch"])
def test_a_stopped_run_ends_as_one_that_was_not(
    stop: int, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_imagenet.main(argv(digits, tmp_path / "whole", "--every", "2"))
    step, calls = loop._step, [0]

    def stopping(*args: Any) -> Any:
        if calls[0] == stop:
            raise KeyboardInterrupt
        calls[0] += 1
        return step(*args)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "_step", stopping)
        with pytest.raises(KeyboardInterrupt):
            train_imagenet.main(argv(digits, tmp_path / "stopped", "--every", "2"))
    train_imagenet.main(argv(digits, tmp_path / "stopped", "--every", "2", "--workers", "1"))
    assert calls[0] == stop
    whole, stopped = weights(tmp_path / "whole"), weights(tmp_path / "stopped")
    assert whole.keys() == stopped.keys()
    assert [name for name, value in whole.items() if not torch.equal(value, stopped[name])] == []
    assert rows(tmp_path / "whole") == rows(tmp_path / "stopped")


def test_another_run_is_refused(digits: Path, tmp_path: Path) -> None:
    train_imagenet.main(argv(digits, tmp_path / "run", "--epochs", "1"))
    with pytest.raises(BadInput, match="other --epochs, --lr: give --output another folder"):
        train_imagenet.main(argv(digits, tmp_path / "run", "--epochs", "2", "--lr", "1"))
    (tmp_path / "run" / "last.pth").write_bytes(b"no state")
    with pytest.raises(BadInput, match="no state of this training"):
        train_imagenet.main(argv(digits, tmp_path / "run", "--epochs", "1"))


@pytest.mark.parametrize("damage", ["optimiser", "state_dict", "sums", "step", "about"])
def test_a_damaged_state_is_one_line(damage: str, digits: Path, tmp_path: Path) -> None:
    given = argv(digits, tmp_path / "run", "--epochs", "1", "--cooldown", "0")
    train_imagenet.main(given)
    path = tmp_path / "run" / "last.pth"
    content = torch.load(path, weights_only=True)
    changed: dict[str, Any] = {"sums": [], "step": -5, "about": [1]}
    if damage in changed:
        content["meta"][damage] = changed[damage]
    else:
        content[damage] = {}
    torch.save(content, path)
    with pytest.raises(BadInput, match=r"last.pth is (damaged|there and is no state).*: give --output another folder"):
        train_imagenet.main(given)


@pytest.mark.parametrize("name", ["best.pth", "log.csv"])
@pytest.mark.parametrize(
    "content", [b"my,notes\n1,2\n", b"\xff\xfe\x00", b"epoch,lr,loss,main,aux,top1,top1_ema\nx,,,,,,\n"]
)
def test_files_of_others_are_not_written_over(
    name: str, content: bytes, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_step", lambda *args: pytest.fail("it trained before it looked"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_bytes(content)
    with pytest.raises(BadInput, match=name):
        train_imagenet.main(argv(digits, tmp_path / "run"))
    assert (tmp_path / "run" / name).read_bytes() == content


def test_two_runs_do_not_share_a_folder(digits: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run" / "last.pth.lock"), pytest.raises(BadInput, match="another run is writing"):
        train_imagenet.main(argv(digits, tmp_path / "run"))
    (tmp_path / "file").touch()
    for bad in (tmp_path / "file" / "run", tmp_path / "file", Path("/dev/null")):
        with pytest.raises(BadInput, match=r"cannot write|is a file"):
            train_imagenet.main(argv(digits, bad))


def test_folders_of_imagenet_have_its_indices(digits: Path, tmp_path: Path) -> None:
    """They are its classes everywhere: a network of as many outputs as there are folders would have others."""
    for split in ("train", "val"):
        for digit, synset in zip("0123", ("n01440764", "n02102040", "n02979186", "n03000684"), strict=True):
            shutil.copytree(digits / split / digit, tmp_path / "data" / split / synset)
    with pytest.raises(BadInput, match=r"indices go up to \d+: give --num-classes 1000"):
        train_imagenet.main(argv(tmp_path / "data", tmp_path / "run"))
    given = ["--epochs", "1", "--cooldown", "0", "--num-classes", "1000"]
    assert train_imagenet.main(argv(tmp_path / "data", tmp_path / "run", *given)) == 0


def test_tables_of_images_have_labels_of_their_own(digits: Path, tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for split in ("train", "val"):
        files = sorted((digits / split).rglob("*.png"))
        images = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
        (tmp_path / "data" / split).mkdir(parents=True)
        table = pa.table({"image": images, "label": [int(file.parent.name) for file in files]})
        pq.write_table(table, tmp_path / "data" / split / f"{split}.parquet")
    given = ["--epochs", "1", "--cooldown", "0"]
    for data in (tmp_path / "data", digits):
        assert train_imagenet.main(argv(data, tmp_path / data.name, *given)) == 0
    assert read_checkpoint(tmp_path / "data" / "best.pth")["fc.weight"].shape[0] == 4
    shutil.rmtree(tmp_path / "data" / "val")
    shutil.copytree(digits / "val", tmp_path / "data" / "val")
    with pytest.raises(BadInput, match="class folders, and the other a column"):
        train_imagenet.main(argv(tmp_path / "data", tmp_path / "mixed"))


@pytest.mark.parametrize(
    "option", ["--lr=nan", "--lr=-1", "--mixup=nan", "--cutmix=-2", "--drop=2", "--erase=3", "--smoothing=-1",
               "--ema-decay=5", "--clip=nan", "--drop-path=nan", "--weight-decay=inf", f"--seed={2**63}"],
)  # fmt: skip
def test_numbers_that_mean_nothing_are_refused(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        train_imagenet.main(argv(tmp_path, tmp_path, option))
    assert f"{option.partition('=')[0]}: " in capsys.readouterr().err


WRONG = {
    "timm has none of that name": (["--augment", "nonsense"], "--augment nonsense"),
    "no policy": (["--augment", ""], "--augment is empty"),
    "99 training images": (["--batch-size", "600"], "60 training images"),
    "odd": (["--batch-size", "15"], "Mixup pairs images, and 15"),
    "classes": (["--num-classes", "3"], "--data has 4"),
    "no auxiliary head": (["--aux-weight", "0.4"], "has no auxiliary head"),
    "no weights": (["--weights", "none.pth"], "there is no such file"),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input(case: str, digits: Path, tmp_path: Path) -> None:
    more, message = WRONG[case]
    with pytest.raises(BadInput, match=message):
        train_imagenet.main(argv(digits, tmp_path / "run", *more))


@pytest.mark.parametrize("failing", ["train", "val", "_append", "best.pth"])
def test_what_fails_after_work_loses_none_of_it(
    failing: str, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unreadable image, and a file that cannot be written at an epoch's end: mended, the run ends as a whole one."""
    data, output = tmp_path / "data", tmp_path / "run"
    shutil.copytree(digits, data)
    train_imagenet.main(argv(data, tmp_path / "whole"))
    step, done, save = loop._step, [0], state.save

    def counted(*args: Any) -> Any:
        done[0] += 1
        return step(*args)

    def full(path: Path, *args: Any) -> None:
        if path.name in (failing, "log.csv"):
            raise BadInput(f"cannot write {path}: no space left")
        save(path, *args)

    monkeypatch.setattr(loop, "_step", counted)
    with monkeypatch.context() as patched:
        words = "cannot write"
        if failing in ("train", "val"):
            spoiled = sorted((data / failing / "2").iterdir())[0]
            content = spoiled.read_bytes()
            spoiled.write_bytes(content[: len(content) // 2])
            words = rf"--data: {spoiled}: .*mend the file.* is kept, and the same command goes on"
        elif failing == "_append":
            patched.setattr(loop, "_append", full)
        else:
            patched.setattr(state, "save", full)
        with pytest.raises(BadInput, match=words):
            train_imagenet.main(argv(data, output))
    if failing in ("train", "val"):
        spoiled.write_bytes(content)
    assert torch.load(output / "last.pth", weights_only=True)["meta"]["step"] == done[0]
    train_imagenet.main(argv(data, output))
    assert done[0] == 12
    whole, resumed = weights(tmp_path / "whole"), weights(output)
    assert [name for name, value in whole.items() if not torch.equal(value, resumed[name])] == []
    assert rows(tmp_path / "whole") == rows(output)
    assert (output / "best.pth").exists()


def test_a_mended_image_of_another_size_is_the_same_set_and_a_renamed_one_is_not(digits: Path, tmp_path: Path) -> None:
    shutil.copytree(digits, tmp_path / "data")
    given = argv(tmp_path / "data", tmp_path / "run", "--epochs", "1", "--cooldown", "0")
    assert train_imagenet.main(given) == 0
    image = sorted((tmp_path / "data" / "train" / "0").iterdir())[0]
    Image.new("RGB", (40, 40)).save(image)
    assert train_imagenet.main(given) == 0
    image.rename(image.with_name("other.png"))
    with pytest.raises(BadInput, match="other --data"):
        train_imagenet.main(given)


def test_both_heads_are_trained(digits: Path, tmp_path: Path) -> None:
    """The smallest OverLoCK, a step of it: both losses are told, and the checkpoint fits with and without the head."""
    given = ["--model", "overlock_xt", "--epochs", "1", "--cooldown", "0", "--batch-size", "60"]
    assert train_imagenet.main(argv(digits, tmp_path / "run", *given)) == 0
    (row,) = rows(tmp_path / "run")
    assert float(row["loss"]) == pytest.approx(float(row["main"]) + 0.4 * float(row["aux"]), rel=1e-5)
    state = read_checkpoint(tmp_path / "run" / "best.pth")
    assert any(name.startswith("aux_head.") for name in state)


@pytest.mark.parametrize("model", [MODEL, "overlock_xt"])
def test_fine_tunes_a_checkpoint_of_other_classes_when_asked(
    model: str, digits: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Everything but the last layer comes from the file; it is asked for by --num-classes, said, and recorded."""
    caplog.set_level("INFO")
    network = timm.create_model(model, num_classes=7, **({"aux_head": True} if model != MODEL else {}))
    torch.save({"state_dict": network.state_dict()}, tmp_path / "seven.pth")
    still = ["--model", model, "--epochs", "1", "--cooldown", "0", "--batch-size", "60", "--lr", "0", "--min-lr", "0"]
    given = [*still, "--warmup", "0", "--weights", str(tmp_path / "seven.pth")]
    with pytest.raises(BadInput, match=r"seven.pth: it has 7 classes and --data 4: give --num-classes 4"):
        train_imagenet.main(argv(digits, tmp_path / "run", *given))
    assert train_imagenet.main(argv(digits, tmp_path / "run", *given, "--num-classes", "4")) == 0
    said = f"{tmp_path / 'seven.pth'} has 7 classes: the last layer of 4 begins anew"
    assert said in caplog.text
    kept = torch.load(tmp_path / "run" / "last.pth", weights_only=True)
    assert kept["meta"]["start"] == said
    before = network.state_dict()
    changed = {
        name.rpartition(".")[0]
        for name, value in kept["state_dict"].items()
        if "running" not in name and "num_batches" not in name and not torch.equal(value, before[name])
    }
    assert changed == ({"fc"} if model == MODEL else {"head.4", "aux_head.2"})


def test_weights_of_another_model_are_refused(digits: Path, tmp_path: Path) -> None:
    torch.save(timm.create_model("test_vit", num_classes=4).state_dict(), tmp_path / "vit.pth")
    with pytest.raises(BadInput, match=r"--weights .*vit.pth: .* does not fit"):
        train_imagenet.main(argv(digits, tmp_path / "run", "--weights", str(tmp_path / "vit.pth")))


def test_the_strongest_draws_of_the_recipe_give_images(tmp_path: Path) -> None:
    """Every operation of the recipe's augmentation at its strongest; a newer Pillow refuses timm's 0 bits."""
    from bench.models import find
    from bench.training.run import _augmentation

    entry = find("overlock_xt")
    assert entry is not None
    args = train_imagenet.parser().parse_args(["--model", "overlock_xt", "--data", ".", "--output", "run"])
    made = _augmentation(args, recipe_for(entry, (32, 32)))
    (drawn,) = (part for part in made.transforms if hasattr(part, "ops"))
    image = Image.fromarray(np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3))
    for op in drawn.ops:
        op.prob, op.magnitude, op.magnitude_std = 1.0, 10, 0
        assert op(image).size == (32, 32), op.name
