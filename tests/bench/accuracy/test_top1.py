"""The command, in processes of its own: known truth, refusals, kills, a full disk, several processes."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bench import cli, top1
from bench.accuracy.predictions import Predictions, read
from bench.cli import BadInput
from bench.loading import randomise
from bench.records import store
from tests.bench.accuracy.trees import crop, save

SIZE = ("--resolutions", "64", "--batch-size", "4", "--workers", "0", "--threads", "1")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of each network's names and shapes, whose predictions depend on the image."""
    import timm

    import baselines
    import overlock

    assert baselines.MODELS
    assert overlock.VARIANTS
    folder = tmp_path_factory.mktemp("weights")
    paths = {}
    for name in ("overlock_xt", "unireplknet_a", "convnext_atto"):
        model = timm.create_model(name)
        randomise(model, seed=1)
        paths[name] = folder / f"{name}.pth"
        torch.save({"model": {f"module.{k}": v for k, v in model.state_dict().items()}, "epoch": 3}, paths[name])
    return paths


def arguments(tree: Path, results: Path, *more: object) -> list[str]:
    return [*map(str, ("--data", tree, "--dataset", "custom", "--results", results, *SIZE, *more))]


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "bench.top1", *args]


def spawn(args: Sequence[str], **kwargs: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(args, capture_output=True, text=True, timeout=200, check=False, **kwargs)


def found(results: Path, name: str = "") -> list[Path]:
    return sorted(results.glob(f"{name}*/predictions.npz"))


def of(results: Path, name: str) -> Predictions:
    (path,) = found(results, name)
    return read(path)


def flat(tree: Path, folder: Path) -> Path:
    folder.mkdir()
    for path in tree.rglob("*.*"):
        shutil.copy(path, folder / (path.stem.partition(" ")[0] + path.suffix))
    return folder


def test_the_right_top1_is_known(
    tree: Path, weights: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Labels are one network's own predictions for 29 of 40 images, and its second choice for another 6."""
    images = flat(tree, tmp_path / "flat")
    names = sorted(path.name for path in images.iterdir())
    (tmp_path / "any.txt").write_text("".join(f"{name} 0\n" for name in names))
    chosen = ("--models", "overlock_xt", "convnext_atto")
    given = [f"{name}={weights[name]}" for name in ("overlock_xt", "convnext_atto")]
    common = [*chosen, "--weights", *given, "--labels"]
    assert top1.main([*arguments(images, tmp_path / "a"), *common, str(tmp_path / "any.txt")]) == cli.OK
    top5 = of(tmp_path / "a", "overlock_xt").rows["top5"].astype(int)
    labels = [row[0] if i < 29 else row[1] if i < 35 else (row[0] + 500) % 1000 for i, row in enumerate(top5)]
    missed = {i for i in range(35, 40) if labels[i] in top5[i]}
    assert not missed
    order = sorted(names, key=lambda name: [int(part) if part.isdigit() else part for part in name.split("_")])
    (tmp_path / "truth.txt").write_text("".join(f"{n} {i}\n" for n, i in zip(order, labels, strict=True)))
    capsys.readouterr()
    args = [*arguments(images, tmp_path / "b"), *common, str(tmp_path / "truth.txt"), "--format", "json"]
    assert top1.main(args) == cli.OK
    told = json.loads(capsys.readouterr().out)
    values = {(r["model"], r["metric"]): r for r in told["records"]}
    assert values["overlock_xt", "top1"]["value"] == pytest.approx(100 * 29 / 40)
    assert values["overlock_xt", "top5"]["value"] == pytest.approx(100 * 35 / 40)
    assert values["overlock_xt", "top1"]["n"] == 40
    assert values["overlock_xt", "top1"]["valid"]
    assert len(values["overlock_xt", "top1"]["weights"]) == 64
    assert values["overlock_xt", "top1"]["backend"]
    other = of(tmp_path / "b", "convnext_atto").rows["top5"][:, 0]
    right = sum(int(a) == b for a, b in zip(other, labels, strict=True))
    (comparison,) = told["comparisons"]
    assert comparison["delta"] == pytest.approx(100 * (29 - right) / 40)


def test_seventy_per_cent_of_sixty_images_in_a_thousand_folders(
    weights: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Most folders are empty, and are classes all the same; labels are the network's own predictions for 42 images."""
    for i in range(60):
        save(crop(i, 70, 70), tmp_path / "flat" / f"{i:02d}.jpg")
    (tmp_path / "any.txt").write_text("0\n" * 60)
    common = ["--models", "convnext_atto", "--weights", str(weights["convnext_atto"])]
    top1.main([*arguments(tmp_path / "flat", tmp_path / "a"), *common, "--labels", str(tmp_path / "any.txt")])
    for i in range(1000):
        (tmp_path / "val" / f"n{i:08d}").mkdir(parents=True)
    (tmp_path / "val" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "val" / ".ipynb_checkpoints" / "x.jpg").touch()
    for i, row in enumerate(of(tmp_path / "a", "convnext_atto").rows["top5"].astype(int)):
        label = row[0] if i < 42 else (row[0] + 1) % 1000
        (tmp_path / "flat" / f"{i:02d}.jpg").rename(tmp_path / "val" / f"n{label:08d}" / f"{i:02d}.jpg")
    capsys.readouterr()
    assert top1.main([*arguments(tmp_path / "val", tmp_path / "b"), *common, "--format", "json"]) == cli.OK
    record = json.loads(capsys.readouterr().out)["records"][0]
    assert (record["metric"], record["n"], record["value"]) == ("top1", 60, pytest.approx(70.0))
    assert "1000 classes by folder: 0 n00000000, 1 n00000001" in record["notes"][0]
    assert ".ipynb_checkpoints" in record["notes"][1]
    assert of(tmp_path / "b", "convnext_atto").header["class_index"]["n00000999"] == 999


@pytest.mark.parametrize("name", ["overlock_xt", "unireplknet_a"])
def test_the_forms_agree(
    name: str, tree: Path, weights: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = arguments(tree, tmp_path, "--models", name, "--weights", weights[name], "--form", "both")
    assert top1.main([*args, "--format", "json"]) == cli.OK
    told = json.loads(capsys.readouterr().out)
    assert {r["form"] for r in told["records"]} == {"train", "deploy"}
    (comparison,) = told["comparisons"]
    assert comparison["agree"] == 1.0
    assert len(found(tmp_path)) == 2


def test_formats_and_the_reparameterised_file(tree: Path, weights: dict[str, Path], tmp_path: Path) -> None:
    """The same network from a nested file, from safetensors, and from a file of the merged form (unireplknet)."""
    from overlock.checkpoints.reading import read_checkpoint

    state = read_checkpoint(weights["unireplknet_a"])
    save_file(state, tmp_path / "w.safetensors")
    import timm

    model = timm.create_model("unireplknet_a")
    model.load_state_dict(state)
    torch.save(model.to_deploy().state_dict(), tmp_path / "merged.pth")
    rows = []
    for path in (weights["unireplknet_a"], tmp_path / "w.safetensors", tmp_path / "merged.pth"):
        results = tmp_path / path.name.replace(".", "-")
        assert top1.main(arguments(tree, results, "--models", "unireplknet_a", "--weights", path)) == cli.OK
        rows.append(of(results, "unireplknet_a").rows)
    assert np.array_equal(rows[0], rows[1])
    assert np.array_equal(rows[0]["top5"][:, 0], rows[2]["top5"][:, 0])


def test_random_weights_are_marked(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = arguments(tree, tmp_path, "--models", "moganet_xt", "--weights", "random", "--format", "json", "--real")
    assert top1.main(args) == cli.OK
    told = json.loads(capsys.readouterr().out)["records"]
    assert {r["metric"] for r in told} == {"top1", "top5", "top1_real"}
    for record in told:
        assert record["weights"] == "random:0"
        assert not record["valid"]
        assert record["reasons"] == ["random weights: no figure of this model"]
    assert of(tmp_path, "moganet_xt").header["weights"] == "random:0"


def test_saved_records(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--save keeps them in the machine's folder; weights at another size than they were trained at are told of."""
    monkeypatch.setattr(store, "results_folder", lambda: tmp_path / "kept")
    args = arguments(tree, tmp_path, "--models", "moganet_xt", "--weights", "random", "--save")
    assert top1.main(args) == cli.OK
    (folder,) = store.machines(store.results_folder())
    top, _ = store.read(folder)
    assert (top.model, top.metric, top.machine) == ("moganet_xt", "top1", folder.name)
    assert list(store.environments(folder)) == [top.run]


@pytest.mark.parametrize("style", ["table", "markdown", "latex", "csv"])
def test_tables(style: str, tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = arguments(tree, tmp_path, "--models", "unireplknet_a", "--weights", "random", "--recipe", "common")
    assert top1.main([*args, "--format", style]) == cli.OK
    text = capsys.readouterr().out
    assert "crop_pct 0.875" in text.replace("\\", "")
    assert style == "csv" or "random weights" in text


REFUSED = {
    "no weights at hand": (["--models", "overlock_t"], "curl"),
    "no such file": (["--models", "overlock_t", "--weights", "/nowhere.pth"], "/nowhere.pth"),
    "weights of none": (["--models", "overlock_t", "--weights", "overlock_s=/nowhere.pth"], "overlock_s"),
    "one file for two": (["--models", "overlock_t", "overlock_s", "--weights", __file__], "which of"),
    "no checkpoint": (["--models", "overlock_t", "--weights", __file__], "cannot read weights"),
    "no such model": (["--models", "overlok_t", "--weights", "random"], "did you mean overlock_t"),
    "no such data": (["--models", "overlock_t", "--weights", "random", "--data", "/nowhere"], "/nowhere"),
    "not the real set": (["--models", "overlock_t", "--weights", "random", "--dataset", "imagenet"], "50000"),
    "no data": (["--models", "overlock_t", "--labels", "/nowhere"], "/nowhere"),
    "tf32 on a CPU": (["--models", "overlock_t", "--device", "cpu", "--dtype", "tf32"], "tf32"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case: str, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args, told = REFUSED[case]
    monkeypatch.setenv("OVERLOCK_OFFLINE", "1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(BadInput, match=told) as error:
        top1.main([*arguments(tree, tmp_path / "r"), *args])
    assert "\n" not in str(error.value)
    assert not found(tmp_path / "r")


def test_another_models_file_is_refused(tree: Path, weights: dict[str, Path], tmp_path: Path) -> None:
    args = arguments(tree, tmp_path, "--models", "overlock_xt", "--weights", weights["unireplknet_a"])
    done = spawn(command(*args))
    assert done.returncode == cli.BAD_INPUT
    (line,) = done.stderr.strip().splitlines()
    assert "missing" in line
    assert "unireplknet_a.pth" in line


def test_an_unreadable_image_spoils_the_row(
    tree: Path, weights: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tree, tmp_path / "val")
    victim = next((tmp_path / "val").rglob("*_00000007.*"))
    victim.write_bytes(victim.read_bytes()[:200])
    args = arguments(tmp_path / "val", tmp_path / "r", "--models", "convnext_atto", "--weights")
    args += [str(weights["convnext_atto"]), "--format", "json"]
    with pytest.raises(BadInput, match=victim.name):
        top1.main(args)
    record = json.loads(capsys.readouterr().out)["records"][0]
    assert (record["n"], record["valid"]) == (39, False)
    assert top1.main([*args, "--allow-missing", "1"]) == cli.OK
    record = json.loads(capsys.readouterr().out)["records"][0]
    assert (record["n"], record["valid"]) == (39, True)
    assert victim.name in record["notes"][0]


def everything(results: Path) -> dict[str, bytes]:
    return {p.relative_to(results).as_posix(): p.read_bytes() for p in results.rglob("*") if p.is_file()}


def two_models(weights: dict[str, Path]) -> list[str]:
    given = [f"{name}={weights[name]}" for name in ("overlock_xt", "convnext_atto")]
    return ["--models", "overlock_xt", "convnext_atto", "--weights", *given]


@pytest.fixture(scope="module")
def undisturbed(tree: Path, weights: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of one process that nothing stopped."""
    results = tmp_path_factory.mktemp("undisturbed")
    done = spawn(command(*arguments(tree, results), *two_models(weights)))
    assert done.returncode == cli.OK, done.stderr
    return results


def killed_midway(args: Sequence[str], results: Path) -> bool:
    """Start a run and kill it once a batch is kept; False if it was done before that."""
    process = subprocess.Popen(args, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not any(p.stat().st_size for p in results.rglob("part-0.bin")):
        time.sleep(0.002)
    process.kill()
    process.wait()
    return process.returncode == -signal.SIGKILL and not found(results)


def test_killed_and_resumed(tree: Path, weights: dict[str, Path], tmp_path: Path, undisturbed: Path) -> None:
    results = tmp_path / "results"
    args = command(*arguments(tree, results), *two_models(weights))
    for _ in range(5):  # on a busy machine the run may be over before this process gets its turn
        if killed_midway(args, results):
            break
        shutil.rmtree(results)
    else:
        pytest.fail("the run was over each time before it could be killed")
    assert any(p.stat().st_size for p in results.rglob("part-0.bin"))
    assert spawn(args).returncode == cli.OK
    assert everything(results) == everything(undisturbed)


def test_processes_together(tree: Path, weights: dict[str, Path], tmp_path: Path, undisturbed: Path) -> None:
    """40 images in batches of 4 over three processes: no batch twice, none lost."""
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "3",
        "-m",
        "bench.top1",
    ]
    done = spawn([*launcher, *arguments(tree, tmp_path), *two_models(weights)])
    assert done.returncode == cli.OK, done.stderr
    assert done.stdout.count("overlock_xt") == 2  # its row, and the comparison: one process prints
    assert everything(tmp_path) == everything(undisturbed)


@pytest.mark.skipif(
    torch.__version__.startswith("2.8."), reason="PyTorch 2.8 writes a file when it is imported, over the limit"
)
def test_a_full_disk_loses_nothing_counted(
    tree: Path, weights: dict[str, Path], tmp_path: Path, undisturbed: Path
) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (19 * 4 * 5 + 7, resource.RLIM_INFINITY))

    args = arguments(tree, tmp_path, *two_models(weights))
    shutil.copy(next(undisturbed.glob("manifest*")), tmp_path)  # it is larger than the limit, as the headers are
    for path in found(undisturbed):
        (tmp_path / path.parent.name).mkdir()
        (tmp_path / path.parent.name / "header.json").write_text(json.dumps(read(path).header))
    done = spawn(command(*args), preexec_fn=limit, env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"})
    assert done.returncode == cli.BAD_INPUT
    assert "cannot write results" in done.stderr
    assert "Traceback" not in done.stderr
    assert sum(p.stat().st_size for p in tmp_path.rglob("part-0.bin")) >= 19 * 4 * 5
    assert spawn(command(*args)).returncode == cli.OK
    assert everything(tmp_path) == everything(undisturbed)


def test_comparing_files(undisturbed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = found(undisturbed)
    assert top1.main(["--compare", str(first), str(second.parent)]) == cli.OK
    assert "McNemar p" in capsys.readouterr().out
    with pytest.raises(BadInput, match=r"nowhere\.npz"):
        top1.main(["--compare", str(first), "/nowhere.npz"])
