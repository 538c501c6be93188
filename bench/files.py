"""Reading files of users, with one clear line where they are damaged, and taking turns in writing them.

Writing is in `bench.cli`. Importing this imports no torch and no pandas.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from bench.cli import BadInput, check_writable, unwritable

LOCK_TIMEOUT = 60.0
"""Seconds to wait for another writer, who holds the lock for some milliseconds."""


def read_text(path: Path, mend: str) -> str:
    """The text of a file in UTF-8, with or without a byte-order mark. `mend` says what to do where there is none.

    Raises:
        BadInput: if it is absent, a folder or a device without an end, or not UTF-8.
    """
    try:
        if path.is_char_device() or path.is_block_device():
            raise BadInput(f"cannot read {path}: it is a device, not a file; {mend}")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(
            f"cannot read {path}: no text in UTF-8 ({error.reason} at byte {error.start}); {mend}"
        ) from error
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror or error}; {mend}") from error


def parse_csv(text: str, path: Path, needed: Collection[str], mend: str) -> list[tuple[int, dict[str, str]]]:
    """The rows of CSV, each with the number of its line; every row has a cell for each column.

    Raises:
        BadInput: if a column that is `needed` is absent, or a row is cut or too long; it names the line.
    """
    reader = csv.reader(io.StringIO(text, newline=""))
    rows = []
    try:
        columns = next(reader, [])
        missing = [name for name in needed if name not in columns]
        if missing:
            raise BadInput(f"{path}: its first line names no column {', '.join(missing)}: {mend}")
        for cells in reader:
            if len(cells) != len(columns):
                raise csv.Error(f"{len(cells)} cells in {len(columns)} columns")
            rows.append((reader.line_num, dict(zip(columns, cells, strict=True))))
    except csv.Error as error:
        raise BadInput(f"{path}, line {reader.line_num}: {error}: {mend}") from error
    return rows


@contextmanager
def alone(path: Path, mend: str) -> Iterator[None]:
    """Within it this process alone writes the file, however long that takes; its folder is made.

    Raises:
        BadInput: if another process does, or the file cannot be written.
    """
    with _held(path, 0.0, f"another run is writing to {path}: wait for it, or {mend}"):
        check_writable(path)
        yield


def locked(path: Path) -> AbstractContextManager[None]:
    """Within it no other writer touches the file, whose folder is made.

    Raises:
        BadInput: if the folder cannot be written, or another writer stays.
    """
    refusal = f"{path} is being written to for more than {LOCK_TIMEOUT:g} s: who holds {path}.lock?"
    return _held(path, LOCK_TIMEOUT, refusal)


@contextmanager
def _held(path: Path, seconds: float, refusal: str) -> Iterator[None]:
    """Within it the lock of a file is held; `refusal` says that somebody else holds it for so many seconds."""
    from filelock import FileLock, Timeout

    lock = FileLock(f"{path}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=seconds)
    except Timeout as error:
        raise BadInput(refusal) from error
    except OSError as error:
        raise BadInput(unwritable(path, error)) from error
    try:
        yield
    finally:
        lock.release()
