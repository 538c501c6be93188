"""Records kept on disk: `results/<machine>/*.csv`, a record on each line, appended to by whoever measures.

A file is safe to share. Writers take turns by a lock file and add whole lines; a line that a killed writer left
unfinished (it has no end of line) is passed over by readers and removed by the next writer. A file of an older version
reads on, and gets the columns that it lacks when it is next written to. Environments are kept beside them, one a run.
Importing this imports no torch and no pandas.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.cli import BadInput, check_writable, unwritable, write_whole
from bench.files import locked, parse_csv, read_text
from bench.project import project
from bench.records.record import TYPES, Record, from_dict, from_json

log = logging.getLogger(__name__)

RECORDS = "records.csv"
ENVIRONMENTS = "environments.jsonl"
MEND = "give a file of records that bench.compare wrote, or mend it by hand or from git"
"""What a user can do about a file that cannot be read."""

_FLAGS = {"true": True, "false": False}


def results_folder() -> Path:
    """Where the project around the working directory keeps its records (`bench.project`)."""
    return project().results


def save(records: Sequence[Record], environment: Mapping[str, Any], results: Path | None = None) -> Path:
    """Keep records and the environment of their run under `results/<machine>/`; returns the file of records.

    The machine's name, the run's and the rest are as they stand in the records: stamp them before.

    Raises:
        BadInput: if there is no machine in the environment, or it cannot be written.
    """
    machine = str(environment.get("machine") or "")
    if not machine:
        raise BadInput(
            "these records cannot be kept: their environment names no machine; give --output to keep them in a file"
        )
    folder = (results or results_folder()) / machine
    _add_environments(folder, {record.run: environment for record in records})
    append(folder / RECORDS, records)
    return folder / RECORDS


def append(path: Path, records: Iterable[Record]) -> None:
    """Add records to a CSV file, which is made if it does not exist.

    Raises:
        BadInput: if it cannot be written or is no file of records; what it held before stays.
    """
    rows = [_cells(record) for record in records]
    if rows:
        with locked(path):
            _append(path, rows)


def add_missing(records: Sequence[Record], environments_of: Mapping[str, Mapping[str, Any]], results: Path) -> int:
    """Keep those records that are not kept yet, and the environments of their runs; returns how many were not.

    Any number of writers may bring the same records, in any order: each is there once.

    Raises:
        BadInput: if a record names no machine, or it cannot be written.
    """
    added = 0
    for machine in dict.fromkeys(record.machine for record in records):
        if not machine:
            raise BadInput(f"these records cannot be kept: they name no machine: {MEND}")
        folder = results / machine
        of_machine = [record for record in records if record.machine == machine]
        runs = {record.run for record in of_machine} & environments_of.keys()
        _add_environments(folder, {run: environments_of[run] for run in runs})
        path = folder / RECORDS
        with locked(path):
            there = {tuple(_cells(record).values()) for record in read(path)} if path.exists() else set()
            rows = {tuple(row.values()): row for row in map(_cells, of_machine)}
            missing = [row for cells, row in rows.items() if cells not in there]
            if missing:
                _append(path, missing)
        added += len(missing)
    return added


def merge(sources: Iterable[Path], results: Path) -> int:
    """`add_missing` of all that folders like `results/` hold, of every machine.

    Raises:
        BadInput: if one cannot be read, or the other cannot be written to.
    """
    folders = [folder for source in sources for folder in machines(source)]
    known = {run: environment for folder in folders for run, environment in environments(folder).items()}
    return add_missing([record for folder in folders for record in read(folder)], known, results)


def _append(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Add lines; the caller holds the lock."""
    columns = _columns(path)
    _repair(path)
    missing = [name for name in TYPES if name not in columns]
    if missing:
        columns = [*columns, *missing]
        _rewrite(path, columns)
    _add(path, _text([[row.get(name, "") for name in columns] for row in rows]))


def csv_of(records: Iterable[Record]) -> str:
    """The text of a file of these records."""
    return _text([[*TYPES], *([*_cells(record).values()] for record in records)])


def check(results: Path | None = None) -> None:
    """Make sure, before anything is measured, that `save` can keep what will be: no file of ours there is damaged.

    Raises:
        BadInput: if one is, or the folder cannot be written to.
    """
    results = results or results_folder()
    try:
        here = next(folder for folder in (results, *results.absolute().parents) if folder.exists())
    except OSError as error:  # its name is too long, say
        raise BadInput(f"no records can be kept in {results}: {error.strerror}; give another folder") from error
    if not here.is_dir():
        raise BadInput(f"{here} is no folder: no records can be kept in {results}; give another one, or move the file")
    check_writable(here / RECORDS)
    for file in sorted(results.glob(f"*/{ENVIRONMENTS}")):
        if not file.is_file():
            raise BadInput(f"{file} is no file that lines can be added to: give another folder, or move it away")
        environments(file.parent)
        check_writable(file)
        _check_lock(file)
    for file in sorted(results.glob(f"*/{RECORDS}")):
        check_appendable(file)


def check_appendable(path: Path) -> None:
    """Make sure, before anything is measured, that `append` can add to a file; nothing of it is touched.

    Raises:
        BadInput: if it cannot, or the file is not one of records.
    """
    check_writable(path)
    _check_lock(path)
    if path.exists():
        if not path.is_file():
            raise BadInput(f"{path} is no file that lines can be added to: give a CSV file, or a name that is free")
        if _columns(path):
            _parse(read_text(path, MEND), path)


def _check_lock(path: Path) -> None:
    """Raises BadInput where the file of the lock is another user's alone, or a folder."""
    lock = Path(f"{path}.lock")
    if lock.exists():
        check_writable(lock)


def machines(results: Path) -> list[Path]:
    """The folders under `results/` that hold records, by name."""
    return sorted({file.parent for file in results.glob("*/*.csv")})


def files_of(path: Path) -> list[Path]:
    """A file itself; of a folder all CSV files: of a machine's, or of one with a folder for each machine.

    The latter may have further files, as `results/` has expected and published figures.

    Raises:
        BadInput: if a folder has none.
    """
    if not path.is_dir():
        return [path]
    own, of_machines = (sorted(path.glob(pattern)) for pattern in ("*.csv", "*/*.csv"))
    files = own if path / RECORDS in own else of_machines or own
    if not files:
        raise BadInput(f"{path}: no records there; python -m bench.compare --save keeps some")
    return files


def read(path: Path) -> list[Record]:
    """The records of `files_of` a path, in the order written.

    Raises:
        BadInput: if there is nothing there, or it holds no records.
    """
    if path.is_dir():
        return [record for file in files_of(path) for record in read(file)]
    content = read_text(path, MEND)
    if not content.lstrip().startswith("{"):
        return _parse(content, path)
    try:
        return from_json(content)[1]
    except ValueError as error:
        raise BadInput(f"{path}: {error}: {MEND}") from error


def environments(folder: Path) -> dict[str, dict[str, Any]]:
    """Run -> the environment that it ran in, of a machine's folder; the last one counts where a run has several."""
    return dict(_environment_lines(folder / ENVIRONMENTS))


def _environment_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    content = read_text(path, MEND) if path.is_file() else ""
    for number, line in enumerate(_whole(content, path).split("\n")[:-1], 1):
        try:
            data = json.loads(line)
            run, environment = data["run"], data["environment"]
            if not isinstance(run, str) or not isinstance(environment, dict):
                raise TypeError("run is no text, or environment no object")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            why = f"{type(error).__name__}: {error}"
            raise BadInput(f"{path}, line {number}: no environment of a run ({why}): {MEND}") from error
        yield run, environment


def _add_environments(folder: Path, known: Mapping[str, Mapping[str, Any]]) -> None:
    """Keep the environments of those runs that a machine's folder does not have yet."""
    path = folder / ENVIRONMENTS
    with locked(path):
        new = sorted(known.keys() - environments(folder).keys())
        if new:
            _repair(path)
            _add(path, "".join(json.dumps({"run": run, "environment": dict(known[run])}) + "\n" for run in new))


def _add(path: Path, text: str) -> None:
    """Append and wait until it is on disk; if that fails, the file is as it was."""
    size = path.stat().st_size if path.exists() else 0
    try:
        with path.open("ab") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if path.exists():
            os.truncate(path, size)
        raise BadInput(f"{unwritable(path, error)}; nothing was added to it") from error


def _whole(content: str, path: Path) -> str:
    """The part of a file that ends with its last end of line."""
    whole = content[: content.rfind("\n") + 1]
    if whole != content:
        log.warning("%s: its last line was never finished and is left out", path)
    return whole


def _repair(path: Path) -> None:
    """Remove an unfinished last line; the caller holds the lock."""
    if path.exists():
        content = path.read_bytes()
        end = content.rfind(b"\n") + 1
        if end != len(content):
            log.warning("%s: its last line was never finished and is removed: %.200r", path, content[end:])
            os.truncate(path, end)


def _columns(path: Path) -> list[str]:
    """The columns of a file of records, none for a new one; nothing of it is touched.

    Raises:
        BadInput: if it is something else. A first line without an end must be the beginning of ours.
    """
    content = read_text(path, MEND) if path.exists() else ""
    first, end, _ = content.partition("\n")
    if not end and _text([[*TYPES]]).startswith(first):
        return []
    parse_csv(first, path, ("model", "metric"), MEND)
    if not end:
        raise BadInput(f"{path}: no file of records: its first line has no end: {MEND}")
    return next(csv.reader([first]))


def _rewrite(path: Path, columns: Sequence[str]) -> None:
    """Give a file these columns, empty where it had none; replaced as a whole."""
    content = read_text(path, MEND) if path.exists() else ""
    rows = parse_csv(content, path, (), MEND)
    write_whole(path, _text([columns, *([row.get(name, "") for name in columns] for _, row in rows)]))


def _text(rows: Iterable[Sequence[str]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def _cells(record: Record) -> dict[str, str]:
    """A record's fields as text without line breaks, so that a line is a record."""
    return {name: _cell(getattr(record, name)) for name in TYPES}


def _cell(value: Any) -> str:
    if value is None or value == ():
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return json.dumps(value)
    return " ".join(value.splitlines()) if isinstance(value, str) else repr(value)


def _parse(content: str, path: Path) -> list[Record]:
    records = []
    for number, row in parse_csv(_whole(content, path), path, ("model", "metric"), MEND):
        try:
            values = {name: _value(name, text) for name, text in row.items() if name in TYPES and text}
            records.append(from_dict({"value": None, "unit": "", "form": "", "version": 1, **values}))
        except (ValueError, RecursionError) as error:
            raise BadInput(f"{path}, line {number}: {error}: {MEND}") from error
    return records


def _value(name: str, text: str) -> Any:
    kind = TYPES[name].removesuffix(" | None")
    if kind.startswith("tuple"):
        return json.loads(text)
    if kind == "bool":
        if text not in _FLAGS:
            raise ValueError(f"{name} is {text!r}, neither true nor false")
        return _FLAGS[text]
    if kind == "int" or (kind == "float" and text.lstrip("-").isdecimal()):
        return int(text)
    return float(text) if kind == "float" else text
