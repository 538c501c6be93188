"""Results of an evaluation on disk, kept batch by batch, so that a killed run goes on where it stopped.

A folder belongs to one run: `header.json` says which. Each process appends whole batches to a part of its own. A batch
that a kill or a full disk cut short is dropped when the part is opened again, and is done again.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from filelock import FileLock, Timeout

from bench.cli import BadInput

T = TypeVar("T")


def images_of(number: int, batch: int, images: int) -> range:
    """The indices of a batch's images; the last batch has what is left.

    They are the same whoever computes the batch and whenever: so shared, resumed and plain runs feed a network the same
    tensors.
    """
    return range(number * batch, min((number + 1) * batch, images))


class Format(Protocol[T]):
    """How the results of one task are written to a part, the file `part-<rank>.<suffix>`."""

    suffix: str

    def encode(self, number: int, result: T) -> bytes:
        """The bytes of one batch's result."""
        ...

    def decode(self, content: bytes) -> tuple[dict[int, T], int]:
        """The whole results that a part begins with, by number of the batch, and how many bytes they take."""
        ...


class Store(Generic[T]):
    """The results of one run, of whichever process.

    Args:
        folder: is made where it does not exist.
        header: what is run: everything that results may depend on. Results under another header are never mixed in.
        form: how results are written.
        rank: of this process, which writes its own part and reads all of them.

    Raises:
        BadInput: if the folder holds another run's results or cannot be written, or another process writes to it.
    """

    def __init__(self, folder: Path, header: Mapping[str, Any], form: Format[T], rank: int = 0) -> None:
        self.folder, self.form = folder, form
        self.header: Mapping[str, Any] = json.loads(json.dumps(header))
        self.results: dict[int, T] = {}
        self._part = folder / f"part-{rank}.{form.suffix}"
        self._size = 0
        self._lock = FileLock(f"{self._part}.lock")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
            self._read()
        except Timeout as error:
            raise BadInput(
                f"another run is writing to {folder}: wait for it, or give --results another folder"
            ) from error
        except OSError as error:
            raise self.cannot_write(error) from error
        except BadInput:
            self.close()
            raise
        except (ValueError, RecursionError) as error:
            self.close()
            raise BadInput(
                f"{folder} holds damaged results ({error}): remove it, or give --results another folder"
            ) from error

    @property
    def _header_file(self) -> Path:
        return self.folder / "header.json"

    @property
    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob(f"part-*.{self.form.suffix}"))

    def _read(self) -> None:
        if self._header_file.exists():
            known = json.loads(self._header_file.read_text(encoding="utf-8"))
            if not isinstance(known, dict):
                raise ValueError("header.json is no JSON object")
            self.check_header(known)
        elif self._parts:
            raise BadInput(
                f"{self.folder} holds results of an earlier version, which cannot be resumed: "
                "give --results another folder, or remove it"
            )
        for part in self._parts:
            results, size = self.form.decode(part.read_bytes())
            self.results |= results
            if part == self._part:
                self._size = size

    def check_header(self, known: Mapping[str, Any]) -> None:
        """Make sure that results which were found belong to this run.

        Raises:
            BadInput: if they do not, naming what differs.
        """
        differs = sorted(k for k in {**known, **self.header} if known.get(k) != self.header.get(k))
        if differs:
            raise BadInput(
                f"{self.folder} holds results of another run ({', '.join(differs)} differ): "
                "give --results another folder, or remove it"
            )

    def add(self, number: int, result: T) -> None:
        """Keep the result of a batch.

        Raises:
            BadInput: if it cannot be written; what was kept before stays.
        """
        content = self.form.encode(number, result)
        try:
            if not self._header_file.exists():
                replace(self._header_file, json.dumps(self.header).encode())
            with self._part.open("r+b" if self._part.exists() else "w+b") as file:
                file.seek(self._size)
                file.write(content)
                file.truncate()
        except OSError as error:
            raise self.cannot_write(error) from error
        self._size += len(content)
        self.results[number] = result

    def discard(self) -> None:
        """Remove the parts, the header and what a kill cut short, once the results are kept in another form."""
        for path in (*self._parts, self._header_file, *self.folder.glob("*.part")):
            path.unlink(missing_ok=True)

    def cannot_write(self, error: OSError) -> BadInput:
        return BadInput(
            f"cannot write results to {self.folder}: {error.strerror or error}; what was kept stays: make room and "
            "run again, or give --results another folder"
        )

    def close(self) -> None:
        self._lock.release()
        Path(self._lock.lock_file).unlink(missing_ok=True)


def replace(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all.

    Raises:
        OSError: if it cannot be written.
    """
    partial = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")  # of nobody else, on whichever node
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
