"""Whatever is in a file, its reader takes it or says in one line what is wrong, and leaves the file as it is."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save

from bench import published
from bench.accuracy import labels, predictions
from bench.cli import BadInput
from bench.dense import data
from bench.dense.evaluation import JSONLines, Place
from bench.dense.training import loop
from bench.evaluation.files import UnreadableImage
from bench.evaluation.store import Store
from bench.evidence import evidence
from bench.gates import expected
from bench.machine import calibration
from bench.paths import REPOSITORY
from bench.records import store
from bench.torchrun import Workers
from overlock.checkpoints.loading import read_checkpoint
from overlock.checkpoints.released import read_rows
from tests.bench.dense.trees import write_ade20k, write_coco
from tests.bench.fuzz.mutations import faults, faulty, try_all

RESULTS = REPOSITORY / "results"
HEADER = {"model": "m", "form": "deploy", "resolution": "224", "manifest": "0"}


def head(path: Path, lines: int = 30) -> bytes:
    return b"".join(path.read_bytes().splitlines(keepends=True)[:lines])


def records_json() -> bytes:
    path = max(RESULTS.glob("*/records.csv"))
    records = [record.to_dict() for record in store.read(path)[:5]]
    return json.dumps({"environment": {"machine": "m"}, "records": records}, indent=1).encode()


def prediction_rows() -> predictions.Rows:
    rows = np.zeros(4, predictions.ROW)
    rows["image"] = np.arange(4)
    return rows


def prediction_file() -> bytes:
    file = io.BytesIO()
    rows = prediction_rows()
    np.savez(file, header=json.dumps(HEADER), **{name: rows[name] for name in ("label", "rank", "top5", "status")})
    return file.getvalue()


def checkpoint() -> bytes:
    file = io.BytesIO()
    torch.save({"state_dict": {"a.weight": torch.zeros(3), "b": torch.ones(2, 2)}, "epoch": 3}, file)
    return file.getvalue()


def read_environments(path: Path) -> Any:
    return store.environments(path.parent)


def read_part(path: Path) -> Any:
    opened = predictions.open_store(path.parent, HEADER, 4, 2)
    opened.close()
    return opened.results


def read_coco(path: Path) -> Any:
    return data.COCO.open(path.parents[1])


def read_label(path: Path) -> Any:
    return data.ADE20K.open(path.parents[2]).label(path.stem)


def read_image(path: Path) -> Any:
    return data.read_image(path)


def read_published(path: Path) -> Any:
    with mock.patch.object(published, "data_file", return_value=path):
        return published.published.__wrapped__()


def read_calibration(path: Path) -> Any:
    with mock.patch.object(store, "results_folder", return_value=path.parents[1]):
        found = calibration.latest(path.parent.name)
        return calibration.sentence(found), calibration.canary_limit(found, 0.05)


def calibration_file() -> bytes:
    path = max(RESULTS.glob("*/records.csv"))
    first, *lines = path.read_bytes().splitlines(keepends=True)
    return first + b"".join(line for line in lines if any(m in line for m in (b"aa_spread", b"_visible", b"canary_s")))


NAMES = ("a.png", "b.png", "c.png")


def journal() -> bytes:
    lines = JSONLines(NAMES)
    return b"".join(lines.encode(i, {"counts": [[1, 2, 3]], "detections": []}) for i in range(3))


def read_journal(path: Path) -> Any:
    opened = Store(path.parent, HEADER, JSONLines(NAMES))
    opened.close()
    return opened.results


class Line(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = torch.nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"sum": self.model(x).sum()}


def read_training_state(path: Path) -> None:
    """A training of two iterations, from the file at `path` on."""
    schedule, batches = loop.Schedule(2, 0.1, 0.0, 0, 1.0), repeat((torch.ones(1, 2),))
    loop.train(Line(), lambda start: batches, schedule, Place(), Workers(), path, {"--seed": "0"}, {},
               seed=0, every=1, print_every=1)  # fmt: skip


def training_state() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        read_training_state(Path(folder, "t.pth"))
        return Path(folder, "t.pth").read_bytes()


class Case(NamedTuple):
    """A valid file's content and name, its reader, and what the reader may raise."""

    content: Callable[[], bytes]
    name: str
    read: Callable[[Path], Any]
    refusals: tuple[type[ValueError], ...] = (BadInput,)


def environments_file() -> bytes:
    path = max(RESULTS.glob("*/environments.jsonl"))
    return head(path, 3)


def records_file() -> bytes:
    path = max(RESULTS.glob("*/records.csv"))
    return head(path, 12)


def image_file(suffix: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((9, 12), 7, np.uint8)).save(file, suffix)
    return file.getvalue()


CASES = {
    "records.csv": Case(records_file, "records.csv", store.read),
    "records.json": Case(records_json, "records.json", store.read),
    "records as evidence": Case(records_file, "records.csv", lambda path: evidence.load_files([path])),
    "environments.jsonl": Case(environments_file, "environments.jsonl", read_environments),
    "expected.csv": Case(lambda: head(RESULTS / "expected.csv"), "expected.csv", expected.read),
    "labels": Case(lambda: b"a.png 3\nb.png 4\nc.png 5\n", "labels.txt",
                   lambda path: labels.of_file(path, ["a.png", "b.png", "c.png"])),
    "real labels": Case(lambda: b"[[1], [2, 3], []]", "real.json",
                        lambda path: labels.real_labels([f"ILSVRC2012_val_0000000{i}.JPEG" for i in (1, 2, 3)], path)),
    "predictions.npz": Case(prediction_file, "predictions.npz", predictions.read),
    "part of an evaluation": Case(lambda: prediction_rows().tobytes(), "part-0.bin", read_part),
    "header of an evaluation": Case(lambda: json.dumps(HEADER).encode(), "header.json", read_part),
    "checkpoint": Case(checkpoint, "w.pth", read_checkpoint, (ValueError,)),
    "safetensors": Case(lambda: save({"a": torch.zeros(3)}), "w.safetensors", read_checkpoint, (ValueError,)),
    "annotation of ADE20K": Case(lambda: image_file("PNG"), "annotations/validation/a.png", read_label,
                                 (BadInput, UnreadableImage)),
    "image": Case(lambda: image_file("JPEG"), "a.jpg", read_image, (BadInput, UnreadableImage)),
    "published.csv": Case(lambda: head(RESULTS / "published.csv", 60), "published.csv", read_published),
    "weights.csv": Case(lambda: head(RESULTS / "weights.csv"), "weights.csv", read_rows, (ValueError,)),
    "a calibration": Case(calibration_file, "here/records.csv", read_calibration),
    "journal of a dense evaluation": Case(journal, "part-0.jsonl", read_journal),
    "state of a training": Case(training_state, "t.pth", read_training_state),
    "annotations of COCO": Case(lambda: b"", "annotations/instances_val2017.json", read_coco),
}  # fmt: skip


def refused_or_read(case: Case, path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        case.read(path)
    except ValueError as error:
        if type(error) not in case.refusals or not str(error).strip():
            raise
    assert path.read_bytes() == content


@pytest.mark.parametrize("examples", [25, pytest.param(1500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CASES)
def test_a_damaged_file_is_refused_or_read(name: str, examples: int, tmp_path: Path) -> None:
    case = CASES[name]
    path = tmp_path / case.name
    if name == "annotations of COCO":
        write_coco(tmp_path / "tree", {"0.png": [(1, (1, 1, 3, 3))], "1.png": [(2, (2, 2, 3, 3))]}, (8, 12))
        path = tmp_path / "tree" / case.name
        content = path.read_bytes()
    else:
        if name == "annotation of ADE20K":
            write_ade20k(tmp_path, {"a": np.full((9, 12), 7, np.uint8)})
        if name in ("part of an evaluation", "journal of a dense evaluation"):
            (tmp_path / "header.json").write_text(json.dumps(HEADER))
        path.parent.mkdir(parents=True, exist_ok=True)
        content = case.content()
    refused_or_read(case, path, content)
    case.read(path)  # as it is, it is valid
    try_all(lambda planted: refused_or_read(case, path, faulty(content, planted)), faults, examples)
