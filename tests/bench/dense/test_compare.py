"""`python -m bench.compare --task ...`: records and tables like every other, and what a detector's figures are of."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("torchvision")


from bench.cli import BadInput
from bench.cost import modules
from bench.dense import measured
from bench.dense.build import build_dense
from bench.dense.cost import dense_cost
from bench.engine.check import check
from bench.engine.request import Request, Settings
from bench.loading import resolve
from bench.published import beside, shown
from bench.tasks import HEADS, head_of, task_of

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[3])}


def compare(*args: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "bench.compare", *args, "--threads", "1"]
    return subprocess.run(line, capture_output=True, text=True, env=ENVIRONMENT, timeout=250)


def test_segmentation_is_measured(tmp_path: Path) -> None:
    asked = ("--metrics", "params", "macs", "throughput", "memory", "--quick", "--rounds", "1",
             "--output", str(tmp_path / "x.json"))  # fmt: skip
    done = compare("--task", "segmentation", "--models", "overlock_xt", "--resolutions", "64", *asked)
    assert done.returncode == 0, done.stderr
    for word in ("backbone", "head", "images/s", "MiB", "overlock_xt"):
        assert word in done.stdout
    records = json.loads((tmp_path / "x.json").read_text())["records"]
    assert {r["task"] for r in records} == {"segmentation"}
    assert {r["head"] for r in records} == {"upernet"}
    found = {(r["model"], r["metric"], r["counter"]): r for r in records}
    assert found["overlock_xt", "throughput", ""]["value"] > 0
    assert found["overlock_xt", "memory", ""]["value"] > 0
    assert found["overlock_xt", "throughput", ""]["backend"]
    with torch.device("meta"):
        cost = dense_cost(build_dense("overlock_xt", "upernet"), (64, 64))
    assert found["overlock_xt", "params", "parameters"]["value"] == cost.params
    assert found["overlock_xt", "macs", "defined"]["value"] == cost.macs + cost.contmix_macs
    assert found["overlock_xt", "macs", modules.COUNTER]["value"] == cost.module_macs
    parts = sum(found["overlock_xt", f"macs_{part}", "defined"]["value"] for part in ("backbone", "head"))
    assert parts == cost.macs + cost.contmix_macs


def test_detection_says_what_its_cost_is_of() -> None:
    done = compare("--task", "detection", "--head", "cascade", "--models", "convnext_t", "--metrics", "params", "macs")
    assert done.returncode == 0, done.stderr
    for word in ("neck+RPN", "RoI", "545.54", "1000 boxes", "fixed path", "800x1280"):
        assert word in done.stdout


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("--task", "detection", "--head", "upernet"), "--task detection has maskrcnn, cascade, cascade_2fc"),
        (("--head", "cascade"), "give --task detection"),
        (("--head", "upernet"), "give --task segmentation"),
        (("--task", "segmentation", "--metrics", "activations"), "not counted for --task segmentation"),
        (("--task", "segmentation", "--weights", f"moganet_xt={__file__}"), "cannot read weights"),
    ],
)
def test_bad_input(args: tuple[str, ...], told: str) -> None:
    done = compare("--models", "moganet_xt", "--resolutions", "64", *args)
    assert done.returncode == 2, done.stdout
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def request(model: str, task: str, head: str = "", weights: dict[str, str] | None = None) -> Request:
    settings = Settings(weights=weights or {})
    return Request(model=model, form="deploy", resolution=(64, 64), settings=settings, task=task, head=head)


@pytest.mark.parametrize("head", HEADS["detection"])
@torch.inference_mode()
def test_a_detector_runs_its_fixed_path(head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One tensor that depends on the image: boxes, scores, masks of as many boxes as are said, in every head."""
    monkeypatch.setattr(measured, "BOXES", 12)
    monkeypatch.setattr(measured, "MASKS", 3)
    model = measured.load(resolve("moganet_xt"), request("moganet_xt", "detection", head))
    generator = torch.Generator().manual_seed(0)
    first, second = (model(torch.randn(1, 3, 64, 64, generator=generator)) for _ in range(2))
    boxes = 4 if head == "cascade_2fc" else 320
    assert first.shape == (1, 12 * (boxes + 81) + 3 * 28 * 28)
    assert first.isfinite().all()
    assert first.abs().max() <= 1
    assert (first - second).abs().max() > 1e-3


def test_weights_of_a_whole_checkpoint_are_used(tmp_path: Path) -> None:
    whole: Any = build_dense("moganet_xt", "upernet", "train")
    torch.save({"meta": {}, "state_dict": whole.state_dict()}, tmp_path / "w.pth")
    given = request("moganet_xt", "segmentation", weights={"moganet_xt": str(tmp_path / "w.pth")})
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        got = measured.load(resolve("moganet_xt"), given)(x)
        want = whole.eval()(x)
    assert ((got - want).abs().max() / want.abs().max()).item() < 1e-4
    with pytest.raises(BadInput, match="no checkpoint of this model and head"):
        measured.load(
            resolve("moganet_t"), request("moganet_t", "segmentation", weights={"moganet_t": str(tmp_path / "w.pth")})
        )


@pytest.mark.parametrize("head", ["maskrcnn", "cascade_2fc", "upernet"])
def test_what_a_checkpoint_must_be_is_told_before_anything_is_counted(head: str, tmp_path: Path) -> None:
    """Its classes are those of the heads that are measured; another model's file has no classes to speak of."""
    path = tmp_path / "w.pth"
    for classes, told in ((3, r"moganet_xt=\S*w.pth has 3 classes, and .* the (80|150) that .*: leave"), (None, "")):
        torch.save(build_dense("moganet_xt", head, "train", classes=classes).state_dict(), path)
        if told:
            with pytest.raises(BadInput, match=told):
                worker_checks("moganet_xt", head, path)
        else:
            worker_checks("moganet_xt", head, path)
    with pytest.raises(BadInput, match="no checkpoint of this model and head"):
        worker_checks("moganet_t", head, path)


def worker_checks(model: str, head: str, path: Path) -> None:
    settings = asdict(Settings(device="cpu", weights={model: str(path)}))
    check([model], settings, ["float32"], task_of(head), "" if head == head_of(task_of(head)) else head)


def test_names() -> None:
    assert head_of("detection") == "maskrcnn"
    assert head_of("classification") == ""


PUBLISHED = {
    ("overlock_t", "upernet"): ("969", ""),
    ("overlock_s", "cascade"): ("857", ""),
    ("convnext_b", "upernet"): ("1170", "122"),
    ("moganet_s", "cascade"): ("750.2", "82.8"),
    ("moganet_s", "cascade_2fc"): ("405.4", "77.9"),
    ("moganet_b", "maskrcnn"): ("373.1", "63.4"),
    ("unireplknet_t", "cascade"): ("749", "89"),
}


@pytest.mark.parametrize(("name", "head"), PUBLISHED)
def test_published_cost_is_the_head_s_own(name: str, head: str) -> None:
    size = "512x2048" if head == "upernet" else "800x1280"
    what = {"task": task_of(head), "head": head}
    assert tuple(shown(beside(metric, name, size, **what)) for metric in ("macs", "params")) == PUBLISHED[name, head]
    assert not beside("macs", name, "512", **what)
