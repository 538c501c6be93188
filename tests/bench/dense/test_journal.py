"""Per-image results: kept, resumed after a cut line, never mixed between runs, shared out without loss."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.cli import BadInput
from bench.dense.journal import Journal, collect, remaining
from bench.torchrun import Workers

HEADER = {"model": "m", "scales": (0.5, 1.0)}


def filled(folder: Path, images: str, rank: int = 0) -> None:
    journal = Journal(folder, HEADER, rank)
    for image in images:
        journal.add(image, {"value": ord(image)})
    journal.close()


def test_results_come_back(tmp_path: Path) -> None:
    filled(tmp_path, "abc")
    journal = Journal(tmp_path, HEADER)
    assert remaining("abcd", journal, Workers()) == ["d"]
    journal.add("d", {"value": 100})
    assert [row["value"] for row in collect("dcba", journal, Workers())] == [100, 99, 98, 97]


def test_a_line_cut_short_is_dropped_and_overwritten(tmp_path: Path) -> None:
    filled(tmp_path, "abc")
    part = tmp_path / "part-0.jsonl"
    part.write_bytes(part.read_bytes()[:-5])
    journal = Journal(tmp_path, HEADER)
    assert list(journal.rows) == ["a", "b"]
    journal.add("c", {"value": 1})
    journal.close()
    assert list(Journal(tmp_path, HEADER).rows) == ["a", "b", "c"]
    assert len(part.read_text().splitlines()) == 4


def test_a_header_cut_short(tmp_path: Path) -> None:
    (tmp_path / "part-0.jsonl").write_text('{"model"')
    filled(tmp_path, "a")
    assert list(Journal(tmp_path, HEADER).rows) == ["a"]


def test_another_run_s_results_are_refused(tmp_path: Path) -> None:
    filled(tmp_path, "a")
    with pytest.raises(BadInput, match=r"another run \(model differ\)"):
        Journal(tmp_path, {**HEADER, "model": "n"})
    with pytest.raises(BadInput, match="weights differ"):
        Journal(tmp_path, {**HEADER, "weights": "x"}, rank=1)
    assert list(Journal(tmp_path, HEADER).rows) == ["a"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="give --results another folder"):
        Journal(tmp_path / "file" / "below", HEADER)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_keeps_what_was_kept(tmp_path: Path) -> None:
    filled(tmp_path, "ab")
    journal = Journal(tmp_path, HEADER)
    journal._file.close()
    journal._file = open("/dev/full", "r+b")  # noqa: SIM115 - every write to it fails as on a full disk
    with pytest.raises(BadInput, match="what was kept is kept"):
        journal.add("c", {"value": 1})
    assert list(journal.rows) == ["a", "b"]
    journal.close()
    assert list(Journal(tmp_path, HEADER).rows) == ["a", "b"]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_shares_are_everything_once(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(size))
    shares = []
    for rank in range(size):
        monkeypatch.setenv("RANK", str(rank))
        shares += Workers().share(list(range(5)))
    assert sorted(shares) == list(range(5))


def test_parts_of_other_processes_are_read(tmp_path: Path) -> None:
    filled(tmp_path, "ac", rank=0)
    filled(tmp_path, "bd", rank=1)
    assert sorted(Journal(tmp_path, HEADER).rows) == ["a", "b", "c", "d"]
