"""Results on disk, of detectors and of classifiers: kept, resumed after a cut, never mixed between runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.accuracy.predictions import ROW, BatchRows
from bench.cli import BadInput
from bench.dense.evaluation import JSONLines
from bench.evaluation.store import Format, Store, images_of

HEADER = {"model": "m", "scales": (0.5, 1.0)}
IMAGES, BATCH = 11, 3
FORMATS = {"jsonl": JSONLines("abcd"), "bin": BatchRows(IMAGES, BATCH)}


def result(suffix: str, number: int) -> Any:
    if suffix == "jsonl":
        return {"value": number}
    rows = np.zeros(len(images_of(number, BATCH, IMAGES)), ROW)
    rows["image"], rows["label"] = images_of(number, BATCH, IMAGES), number
    return rows


@contextmanager
def opened(folder: Path, form: Format[Any], rank: int = 0, **header: object) -> Iterator[Store[Any]]:
    store = Store(folder, HEADER | header, form, rank)
    yield store
    store.close()


def fill(folder: Path, form: Format[Any], numbers: list[int], rank: int = 0) -> None:
    with opened(folder, form, rank) as store:
        for number in numbers:
            store.add(number, result(form.suffix, number))


def numbers_in(folder: Path, form: Format[Any]) -> list[int]:
    """The numbers of the batches whose results are kept; each result is checked."""
    with opened(folder, form) as store:
        for number, kept in store.results.items():
            assert np.array_equal(kept, result(form.suffix, number))
        return list(store.results)


pytestmark = pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)


def test_results_come_back(form: Format[Any], tmp_path: Path) -> None:
    fill(tmp_path, form, [0, 3, 2])
    assert numbers_in(tmp_path, form) == [0, 3, 2]
    fill(tmp_path, form, [1])
    assert numbers_in(tmp_path, form) == [0, 3, 2, 1]


def test_parts_of_other_processes_are_read(form: Format[Any], tmp_path: Path) -> None:
    fill(tmp_path, form, [0, 2], rank=0)
    fill(tmp_path, form, [1, 3], rank=1)
    assert sorted(numbers_in(tmp_path, form)) == [0, 1, 2, 3]


@pytest.mark.parametrize("cut", [1, 5, 10])
def test_a_result_cut_short_is_dropped_and_overwritten(form: Format[Any], cut: int, tmp_path: Path) -> None:
    fill(tmp_path, form, [0, 1, 2])
    part = tmp_path / f"part-0.{form.suffix}"
    whole = part.read_bytes()
    part.write_bytes(whole[:-cut])
    assert numbers_in(tmp_path, form) == [0, 1]
    fill(tmp_path, form, [2])
    assert part.read_bytes() == whole


def test_another_run_s_results_are_refused(form: Format[Any], tmp_path: Path) -> None:
    fill(tmp_path, form, [0])
    with pytest.raises(BadInput, match=r"another run \(model differ\)"):
        Store(tmp_path, {**HEADER, "model": "n"}, form)
    with pytest.raises(BadInput, match="weights differ"):
        Store(tmp_path, {**HEADER, "weights": "x"}, form, rank=1)
    assert numbers_in(tmp_path, form) == [0]


def test_results_of_an_earlier_version_are_refused(form: Format[Any], tmp_path: Path) -> None:
    """Their parts had no header, or had it as their first line."""
    old = b'{"model":"m","scales":[0.5,1.0]}\n{"image":"a","value":1}\n'
    (tmp_path / f"part-0.{form.suffix}").write_bytes(old)
    with pytest.raises(BadInput, match="earlier version") as error:
        Store(tmp_path, HEADER, form)
    assert "\n" not in str(error.value)
    assert (tmp_path / f"part-0.{form.suffix}").read_bytes() == old


def test_a_damaged_header_is_refused(form: Format[Any], tmp_path: Path) -> None:
    fill(tmp_path, form, [0])
    for content in (b"", b"[]", b"\xff\xfe"):  # each refusal leaves no lock
        (tmp_path / "header.json").write_bytes(content)
        with pytest.raises(BadInput, match="damaged results"):
            Store(tmp_path, HEADER, form)


@pytest.mark.parametrize(
    "line", ["[]", "{}", "7", '{"image": "z", "value": 1}', '{"image": []}', '{"image": "a"}', "\0"]
)
def test_a_damaged_line_is_refused(form: Format[Any], line: str, tmp_path: Path) -> None:
    if form.suffix != "jsonl":
        pytest.skip("rows of bytes have no lines: those of no batch are dropped")
    fill(tmp_path, form, [0])
    with (tmp_path / "part-0.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(BadInput, match=r"damaged results.*remove it"):
        Store(tmp_path, HEADER, form)


def test_two_runs_do_not_share_a_folder_at_once(form: Format[Any], tmp_path: Path) -> None:
    with opened(tmp_path, form):
        with pytest.raises(BadInput, match="another run is writing"):
            Store(tmp_path, HEADER, form)
        with opened(tmp_path, form, rank=1):
            pass
    fill(tmp_path, form, [0])


def test_a_folder_that_cannot_be_written(form: Format[Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="give --results another folder"):
        Store(tmp_path / "file" / "below", HEADER, form)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_keeps_what_was_kept(form: Format[Any], tmp_path: Path) -> None:
    part, aside = tmp_path / f"part-0.{form.suffix}", tmp_path / "aside"
    with opened(tmp_path, form) as store:
        store.add(0, result(form.suffix, 0))
        part.rename(aside)
        part.symlink_to("/dev/full")  # every write to it fails as on a full disk
        with pytest.raises(BadInput, match="what was kept stays"):
            store.add(1, result(form.suffix, 1))
        assert list(store.results) == [0]
        aside.rename(part)
    assert numbers_in(tmp_path, form) == [0]
