"""Files of labels that are none."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from bench.accuracy.labels import class_index, of_file, real_labels
from bench.cli import BadInput
from bench.evaluation.files import natural_key

NAMES = [f"ILSVRC2012_val_{i:08d}.JPEG" for i in range(1, 5)]


@pytest.mark.parametrize("content", [b"\xff\xfe\x00binary", b""])
def test_label_files_that_are_none(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "labels"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=re.escape(str(path))):
        of_file(path, NAMES)


def test_a_label_of_thousands_of_digits(tmp_path: Path) -> None:
    (tmp_path / "labels").write_text("\n".join(f"{name} {'9' * 5000}" for name in NAMES))
    with pytest.raises(BadInput, match="a label is no number from 0 to 999"):
        of_file(tmp_path / "labels", NAMES)


def test_labels_from_a_device_without_an_end() -> None:
    for read in (lambda path: of_file(path, NAMES), lambda path: real_labels(NAMES, path)):
        with pytest.raises(BadInput, match="/dev/zero: it is a device"):
            read(Path("/dev/zero"))


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "3", '[["a"]]', "[1]", "\ud800"])
def test_real_labels_that_are_none(text: str, tmp_path: Path) -> None:
    path = tmp_path / "real.json"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(BadInput, match=re.escape(str(path))):
        real_labels(["ILSVRC2012_val_00000001.JPEG"], path)


@pytest.mark.parametrize("content", [b"", b"garbage" * 100, b"MATLAB 5.0 MAT-file" + bytes(500)])
def test_a_kit_that_is_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "labels").write_text("1\n2\n")
    (tmp_path / "meta.mat").write_bytes(content)
    with pytest.raises(BadInput, match=r"meta.mat is not the development kit's, or damaged \(.+\)"):
        of_file(tmp_path / "labels", ["a", "b"])


def test_a_number_that_the_kit_has_not(tmp_path: Path) -> None:
    savemat = pytest.importorskip("scipy.io").savemat
    rows = [(1, "n01440764"), (2, "no synset")]
    savemat(tmp_path / "meta.mat", {"synsets": np.array(rows, dtype=[("ILSVRC2012_ID", int), ("WNID", "O")])})
    for second in ("2", "3"):
        (tmp_path / "labels").write_text(f"1\n{second}\n")
        with pytest.raises(BadInput, match=f"{second} is no number of a class in"):
            of_file(tmp_path / "labels", ["a", "b"])
    savemat(tmp_path / "meta.mat", {"x": 1})
    with pytest.raises(BadInput, match="not the development kit's"):
        of_file(tmp_path / "labels", ["a", "b"])


def test_names_with_numbers_of_thousands_of_digits() -> None:
    """Those of a tar may be as long. They are in timm's order."""
    long = "9" * 5000
    assert sorted([f"x{long}", "x10", "x9", "x\u0662", "x009"], key=natural_key) == [
        "x\u0662",
        "x009",
        "x9",
        "x10",
        f"x{long}",
    ]
    assert class_index([long, "a"], "custom") == {long: 0, "a": 1}
    for dataset, names in (("custom", [long, "1"]), ("imagenet-v2", [long, "1"])):
        with pytest.raises(BadInput, match="--data: folder"):
            class_index(names, dataset)
