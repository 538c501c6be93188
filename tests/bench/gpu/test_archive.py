"""The archive holds everything at any moment, also where the disk is full."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.cli import BadInput
from bench.gpu import simulation
from bench.gpu.archive import ARCHIVE, BALLAST, Archive, read
from bench.gpu.kept import Kept, kept_in
from bench.records.record import Record

ENVIRONMENT = {"machine": "here", "libraries": {"torch": "2"}}


def record(value: float) -> Record:
    return Record(model="m", form="deploy", metric="throughput", value=value, unit="images/s", resolution="224")


def test_every_message_is_in_the_archive_at_once(tmp_path: Path) -> None:
    whole = Archive(tmp_path)
    kept = Kept(ENVIRONMENT, "run", changed=lambda kept: whole.write(kept.texts()))
    for values in ([1.0], [2.0, 3.0]):  # the second of a key replaces the first
        kept.take("headline", {"records": [record(v).to_dict() for v in values], "key": "pair"})
    kept.log("headline", b"it said this\n")
    kept.take("headline", {"block": {"side": "a", "round": 1, "seconds": 0.5}})
    kept.take("correctness", {"planned": ["x", "y"]})
    kept.take("correctness", {"test": {"id": "x", "outcome": "passed"}})
    kept.take("depthwise", {"dropped": "the last row"})
    kept.take("depthwise", {"file": "depthwise_winners.json", "text": "[]"})
    again = kept_in(read(tmp_path / ARCHIVE), tmp_path)
    assert [(r.value, r.machine, r.torch, r.run) for r in again.of("headline")] == [
        (2.0, "here", "2", "run"), (3.0, "here", "2", "run")
    ]  # fmt: skip
    assert again.blocks == [{"part": "headline", "side": "a", "round": 1, "seconds": 0.5}]
    assert (again.tests, again.planned) == ({"correctness": [{"id": "x", "outcome": "passed"}]},
                                            {"correctness": ["x", "y"]})  # fmt: skip
    assert again.dropped == {"depthwise": ["the last row"]}
    assert read(tmp_path / ARCHIVE)["depthwise_winners.json"] == "[]"
    assert again.logs["headline"] == b"it said this\n"
    assert sorted(os.listdir(tmp_path)) == [BALLAST, ARCHIVE, "headline.csv"], "one file, and no rest of writing it"


def test_a_full_disk_takes_what_was_kept_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's own full device stands for the file as long as the disk is full."""
    whole = Archive(tmp_path)
    whole.write({"a": "1"})
    monkeypatch.setattr(simulation, "running", lambda: True)
    monkeypatch.setattr(simulation, "disk_is_full", lambda ballast: ballast)
    whole.write({"a": "2"})
    assert read(tmp_path / ARCHIVE) == {"a": "2"}
    assert not whole.behind
    monkeypatch.setattr(simulation, "disk_is_full", lambda ballast: True)
    whole.write({"a": "3"})
    assert whole.behind == "No space left on device"
    assert read(tmp_path / ARCHIVE) == {"a": "2"}, "the archive that is there stays whole"
    monkeypatch.undo()
    whole.write({"a": "4"})
    assert not whole.behind
    assert read(tmp_path / ARCHIVE) == {"a": "4"}


def test_what_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "x.tar.gz").write_text("no")
    with pytest.raises(BadInput, match=r"x.tar.gz: no archive of bench.gpu_run"):
        read(tmp_path / "x.tar.gz")
