"""Records as evidence: where each one is, and which of them are figures of what a statement speaks of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bench.files import parse_csv, read_text
from bench.paths import data_file
from bench.published import Subject
from bench.records.record import Record
from bench.records.store import files_of, machines, read
from bench.tasks import WITHOUT_AUXILIARY

MAIN_COUNTERS = ("", "defined", "fvcore, checked by torch FlopCounterMode")
"""Conventions of multiply-adds that are ours; the last is how records of version 1 name it."""

Conditions = tuple[object, ...]


@dataclass(frozen=True)
class Placed:
    """A record and where it stands: `results/<machine>/records.csv:17`."""

    record: Record
    place: str

    @property
    def value(self) -> float:
        assert self.record.value is not None
        return self.record.value

    def __str__(self) -> str:
        r = self.record
        run = f", run {r.run}" if r.run else ""
        commit = f", commit {r.commit[:9]}{' (dirty)' if r.dirty else ''}" if r.commit else ""
        return f"{self.place} ({r.time or 'no time'}{run}{commit})"


class Evidence:
    """Records that have a value and are valid, by what they measured."""

    def __init__(self, placed: Iterable[Placed]) -> None:
        self.all = list(placed)
        self._index: dict[tuple[str, str, str], list[Placed]] = {}
        for item in self.all:
            if item.record.valid and item.record.value is not None:
                r = item.record
                self._index.setdefault((r.task, r.model, r.metric), []).append(item)

    def of(self, subject: Subject) -> list[Placed]:
        """The records that a subject may rest on, newest first; counts by other conventions than ours come last."""
        placed = self._index.get((subject.task, subject.model, subject.metric), [])
        newest = _newest_first(item for item in placed if _tells(item.record, subject))
        return sorted(newest, key=lambda item: not main_counter(item.record))

    def ratios(self, first: Subject, second: Subject) -> list[Placed]:
        """Ratios that one run measured between two subjects, newest first; the first over the second."""
        placed = self._index.get((first.task, first.model, f"{first.metric}_ratio"), [])
        against = f"{second.model} {second.form}"
        return _newest_first(i for i in placed if i.record.against == against and _tells(i.record, first))


def _newest_first(placed: Iterable[Placed]) -> list[Placed]:
    """By time; of equal times the one written later."""
    return sorted(reversed(list(placed)), key=lambda item: item.record.time, reverse=True)


def load(results: Path) -> Evidence:
    """All records below a results folder, with their places.

    Raises:
        BadInput: if a file there is none of records.
    """
    return load_files(machines(results))


def load_files(files: Sequence[Path]) -> Evidence:
    """The records of files (CSV or JSON) or of folders.

    Raises:
        BadInput: if one cannot be read, or holds no records.
    """
    return Evidence(item for path in files for file in files_of(path) for item in _in(file))


def _in(file: Path) -> list[Placed]:
    """A file's records. In CSV a record is a line, after the line of headings."""
    first = 2 if file.suffix == ".csv" else None
    name = "/".join(file.parts[-3:]) if first else str(file)
    return [Placed(r, f"{name}:{first + i}" if first else f"{name}#{i}") for i, r in enumerate(read(file))]


def _tells(record: Record, subject: Subject) -> bool:
    if subject.form and record.form != subject.form:
        return False
    if subject.resolution and subject.metric != "params" and record.resolution != subject.resolution:
        return False
    if subject.device and not record.device.startswith(subject.device):
        return False
    if subject.head and record.head != subject.head:
        return False
    if not subject.accuracy:
        return True
    return not record.of_other_set and record.variant == subject.variant and _right_weights(record, subject)


def main_counter(record: Record) -> bool:
    """Whether a count follows the suite's own convention: every product, ContMix as it is defined; every parameter."""
    if record.metric == "params":
        return not record.counter.endswith(WITHOUT_AUXILIARY)
    return record.metric != "macs" or record.counter in MAIN_COUNTERS


def _right_weights(record: Record, subject: Subject) -> bool:
    """Whether an accuracy is of the weights that the statement is about.

    Where a file is named, its sum must be known and equal. Otherwise any trained weights that are not known to be
    another file.
    """
    if not record.weights or record.weights.startswith("random"):
        return False
    sums = _sums()
    if subject.weights:
        return record.weights == sums.get(subject.weights)
    return record.weights not in {total for name, total in sums.items() if _NOT_THE_DEFAULT.search(name)}


_NOT_THE_DEFAULT = re.compile(r"_pretrain|_reparam|1k_384\.pth|unireplknet_s_in22k|sz256|deit3")
"""Files of weights that no model of the suite is evaluated with unless asked."""


@cache
def _sums() -> dict[str, str]:
    """File of released weights -> its SHA-256, where that is known."""
    path, mend = data_file("weights.csv"), "restore it from git, or install the suite again"
    rows = parse_csv(read_text(path, mend), path, ("value", "sha256"), mend)
    return {row["value"].rpartition("/")[2]: row["sha256"] for _, row in rows if row["sha256"]}


def conditions(record: Record) -> Conditions:
    """What timed figures must share to be set against each other: their run, machine, batch and the like."""
    r = record
    return (r.run, r.machine, r.device, r.dtype, r.batch, r.threads, r.compile, r.resolution)
