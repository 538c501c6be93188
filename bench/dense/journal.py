"""Per-image results on disk, so that a killed run goes on where it stopped.

A folder holds `part-<rank>.jsonl` files: a first line that says what was run, then a line an image, flushed at once. A
line cut short by a kill is dropped when the file is opened again, and its image is done again.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.cli import BadInput
from bench.torchrun import Workers

Row = Mapping[str, Any]


class Journal:
    """Results of one run in one folder.

    Args:
        folder: is made where it does not exist.
        header: what is run: model, weights, data, options. Results under another header are never mixed in.
        rank: of this process: it writes its own part and reads all.

    Raises:
        BadInput: for a folder with results of another run, or one that cannot be written.
    """

    def __init__(self, folder: Path, header: Mapping[str, Any], rank: int = 0) -> None:
        self.folder = folder
        self.rows: dict[str, Row] = {}
        self.header = json.loads(json.dumps(header))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for part in sorted(folder.glob("part-*.jsonl")):
                self.rows |= self._read(part)
            path = folder / f"part-{rank}.jsonl"
            keep = _complete(path.read_bytes()) if path.exists() else b""
            self._file = path.open("r+b" if path.exists() else "w+b")
            self._file.truncate(len(keep))
            self._file.seek(len(keep))
            if not keep:
                self._write(self.header)
        except OSError as error:
            raise self._cannot(error) from error

    def _read(self, part: Path) -> dict[str, Row]:
        lines = _complete(part.read_bytes()).splitlines()
        if not lines:
            return {}
        header = json.loads(lines[0])
        if header != self.header:
            differs = [k for k in {**header, **self.header} if header.get(k) != self.header.get(k)]
            raise BadInput(
                f"{part.parent} holds results of another run ({', '.join(sorted(differs))} differ): "
                "give --results another folder, or remove it"
            )
        return {row["image"]: row for row in map(json.loads, lines[1:])}

    def _write(self, value: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(value, separators=(",", ":")).encode() + b"\n")
        self._file.flush()

    def add(self, image: str, row: Row) -> None:
        """Keep the result of one image.

        Raises:
            BadInput: if it cannot be written; what was kept before stays.
        """
        try:
            self._write({"image": image, **row})
        except OSError as error:
            raise self._cannot(error) from error
        self.rows[image] = {"image": image, **row}

    def _cannot(self, error: OSError) -> BadInput:
        return BadInput(
            f"cannot write results to {self.folder}: {error.strerror or error}; what was kept is kept: make room and "
            "run again, or give --results another folder"
        )

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what a full disk left in the buffer is cut short in any case
            self._file.close()


def _complete(content: bytes) -> bytes:
    """The whole lines."""
    return content[: content.rfind(b"\n") + 1]


def remaining(images: Iterable[str], journal: Journal, workers: Workers) -> list[str]:
    """This process's share of the images that no process has a result of."""
    done = set().union(*workers.gather(list(journal.rows)))
    return workers.share([image for image in images if image not in done])


def collect(images: Iterable[str], journal: Journal, workers: Workers) -> list[Row]:
    """The results of all images, in their order, in every process."""
    rows: dict[str, Row] = {}
    for part in workers.gather(journal.rows):
        rows |= part
    return [rows[image] for image in images]
