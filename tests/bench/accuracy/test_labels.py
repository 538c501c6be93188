"""Files of labels that are none."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.accuracy.labels import of_file, real_labels
from bench.cli import BadInput

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
