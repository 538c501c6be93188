"""Files of predictions that are damaged, or of something else: each is refused in one line that names it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.accuracy.predictions import ROW, open_store, read
from bench.cli import BadInput

HEADER = {"model": "m", "form": "deploy", "resolution": "64", "manifest": "0"}


def write(path: Path, images: int = 8, **changes: Any) -> bytes:
    rows = np.zeros(images, ROW)
    arrays: dict[str, Any] = {name: rows[name] for name in ("label", "rank", "top5", "status")}
    arrays |= {"header": np.array(json.dumps(HEADER)), **changes}
    np.savez_compressed(path, **arrays)
    return path.read_bytes()


def damaged(content: bytes) -> bytes:
    """With a byte changed within compressed data."""
    at = content.index(b"label.npy") + 40
    return content[:at] + bytes(32) + content[at + 32 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "changed": damaged,
    "of text": lambda content: b"model,top1\n",
    "an array alone": lambda content: b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (), }"
    + b" " * 59 + b"\n" + bytes(8),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGES)
def test_damaged_files(case: str, tmp_path: Path) -> None:
    path = tmp_path / "predictions.npz"
    content = write(path)
    assert len(read(path).rows) == 8
    path.write_bytes(DAMAGES[case](content))
    refused(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"header": np.array("[]")},
        {"header": np.array("{")},
        {"header": np.array('{"model": "m"}')},
        {"label": np.zeros(8)},
        {"rank": np.full(8, 70_000)},
        {"top5": np.zeros((8, 1), "<u2")},
        {"status": np.zeros(7, "u1")},
        {"label": np.uint16(3)},
    ],
    ids=str,
)
def test_other_content(changes: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path / "predictions.npz", **changes)
    refused(tmp_path / "predictions.npz")


def refused(path: Path) -> None:
    with pytest.raises(BadInput, match=r"predictions\.npz: no file of predictions") as error:
        read(path)
    assert "\n" not in str(error.value)
    for _ in range(2):  # the refusal leaves no lock
        with pytest.raises(BadInput, match=r"predictions\.npz: no file of predictions"):
            open_store(path.parent, HEADER, 8, 4)


def test_a_finished_run_of_fewer_images_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "predictions.npz", images=7)
    with pytest.raises(BadInput, match="7 of 8 images"):
        open_store(tmp_path, HEADER, 8, 4)
