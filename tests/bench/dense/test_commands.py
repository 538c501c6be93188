"""The real commands, `python -m bench.coco` and `python -m bench.ade20k`, on trees drawn here."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("torchvision")
pytest.importorskip("pycocotools")

from bench.ade20k import main as ade20k_main
from bench.cli import BadInput
from bench.coco import main as coco_main
from bench.dense.build import build_dense
from tests.bench.dense.trees import write_ade20k, write_coco

REPOSITORY = Path(__file__).parents[3]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}


def command(name: str, *args: object, launcher: tuple[str, ...] = ()) -> list[str]:
    return [sys.executable, "-m", *launcher, *(() if not launcher else ("-m",)), f"bench.{name}", *map(str, args)]


def run(line: list[str], timeout: float = 240) -> subprocess.CompletedProcess[str]:
    return subprocess.run(line, capture_output=True, text=True, env=ENVIRONMENT, timeout=timeout)


@pytest.fixture(scope="module")
def ade20k(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four thin images: the network sees 32x2048 pixels."""
    rng = np.random.default_rng(0)
    labels = {f"v{i}": rng.integers(0, 151, (1, 40)).astype(np.uint8).repeat(4, 0).repeat(6, 1) for i in range(4)}
    return write_ade20k(tmp_path_factory.mktemp("ade20k"), labels)


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    objects = {f"{i}.png": [(1 + i, (10 * i, 1, 30, 6))] for i in range(3)}
    return write_coco(tmp_path_factory.mktemp("coco") / "data", objects, (8, 256))


def rows_in(folder: Path) -> dict[str, object]:
    """The rows that were kept, without a line that is just being written."""
    lines = [line for part in folder.glob("*/part-*.jsonl") for line in part.read_text().splitlines(keepends=True)]
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    return {row["image"]: row for row in rows}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("weights") / "moganet.pth"
    torch.save(
        {"meta": {"iter": np.int64(1)}, "state_dict": build_dense("moganet_xt", "upernet", "train").state_dict()}, path
    )
    return path


def ade(ade20k: Path, weights: Path, results: Path, *more: object) -> tuple[object, ...]:
    return ("--models", "moganet_xt", "--weights", weights, "--data", ade20k, "--workers", 0,
            "--results", results, "--format", "json", *more)  # fmt: skip


@pytest.fixture(scope="module")
def whole(ade20k: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Rows of one uninterrupted process."""
    folder = tmp_path_factory.mktemp("whole")
    done = run(command("ade20k", *ade(ade20k, weights, folder)))
    assert done.returncode == 0, done.stderr
    records = json.loads(done.stdout)["records"]
    assert [r["metric"] for r in records] == ["miou", "macc", "aacc"]
    assert records[0]["n"] == 4
    assert not records[0]["valid"]
    assert "4 images where the real set has 2000" in records[0]["reasons"]
    assert len(records[0]["weights"]) == 64
    return rows_in(folder)


@pytest.mark.slow  # classification, by the same evaluator, is tried in every run
def test_torchrun_gives_the_same_rows(ade20k: Path, weights: Path, whole: dict[str, object], tmp_path: Path) -> None:
    launcher = ("torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0", "--rdzv-backend", "c10d",
                "--rdzv-endpoint", "localhost:0")  # fmt: skip
    done = run(command("ade20k", *ade(ade20k, weights, tmp_path), launcher=launcher))
    assert done.returncode == 0, done.stderr
    assert rows_in(tmp_path) == whole
    parts = sorted(tmp_path.glob("*/part-*.jsonl"))
    assert [len(part.read_text().splitlines()) for part in parts] == [2, 2]
    printed = re.sub(r"^(\[Gloo\][^{]*)", "", done.stdout)  # PyTorch 2.8 says on stdout who is connected
    assert json.loads(printed)["records"][0]["n"] == 4  # printed once, by the first process


def test_a_killed_run_goes_on(ade20k: Path, weights: Path, whole: dict[str, object], tmp_path: Path) -> None:
    line = command("ade20k", *ade(ade20k, weights, tmp_path))
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT)
    deadline = time.monotonic() + 200
    while len(rows := rows_in(tmp_path) if list(tmp_path.glob("*/*")) else {}) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 2 <= len(rows) < 4, "killed too late to be a test"
    part = next(tmp_path.glob("*/part-0.jsonl"))
    before = part.read_bytes()
    done = run(line)
    assert done.returncode == 0, done.stderr
    assert part.read_bytes().startswith(before[: before.rfind(b"\n") + 1])  # nothing was done again
    assert rows_in(tmp_path) == whole


def test_coco_prints_a_table_and_compares(coco: Path, tmp_path: Path) -> None:
    done = run(command("coco", "--models", "moganet_xt", "convnext_t", "--weights", "random", "random", "--data", coco,
                       "--workers", 1, "--results", tmp_path, "--resamples", 5))  # fmt: skip
    assert done.returncode == 0, done.stderr
    for word in ("moganet_xt", "convnext_t", "box AP", "mask AP", "random:0", "moganet_xt - convnext_t"):
        assert word in done.stdout
    assert len(list(tmp_path.glob("*.maskrcnn/part-0.jsonl"))) == 2


def test_help_needs_no_torch() -> None:
    for name in ("coco", "ade20k"):
        call = f"import bench.{name} as c\ntry: c.main()\nfinally: print('torch' in sys.modules)"
        code = f"import sys; sys.argv=['x', '--help']; {call}"
        assert run([sys.executable, "-c", code]).stdout.endswith("False\n")


def test_bad_input_is_one_line(ade20k: Path, tmp_path: Path) -> None:
    done = run(
        command("ade20k", "--models", "moganet_xx", "--weights", "random", "--data", ade20k, "--results", tmp_path)
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "unknown model" in done.stderr


def test_bad_input(ade20k: Path, coco: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In this process: a command's process prints such an error as one line (the test before this one)."""

    def refused(main: Callable[[list[str]], int], *arguments: object, words: str) -> None:
        with pytest.raises(BadInput, match=re.escape(words)):
            main([*map(str, arguments), "--results", str(tmp_path / "r")])

    one = ("--models", "moganet_xt", "--weights")
    refused(ade20k_main, *one, "random", "--data", tmp_path, words="--data")
    refused(ade20k_main, *one, tmp_path / "none.pth", "--data", ade20k, words="no weights at")
    two = ("--models", "moganet_xt", "moganet_t", "--weights", "random")
    refused(ade20k_main, *two, "--data", ade20k, words="2 models but 1")
    refused(coco_main, *one, weights, "--data", coco, words="no checkpoint of this model and head")
    refused(
        *(coco_main, *one, "random", "--data", coco, "--device", "cuda:99"),
        words="--device cpu" if not torch.cuda.is_available() else "cuda:99",
    )
    refused(*(coco_main, *one, "random", "--data", coco, "--output", tmp_path / "no" / "file"), words="cannot write")
    with pytest.raises(SystemExit) as ended:
        coco_main(["--models", "moganet_xt", "--weights", "random"])
    assert ended.value.code == 2
    assert "--data" in capsys.readouterr().err
