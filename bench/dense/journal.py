"""Per-image results on disk, so that a killed run goes on where it stopped, and the images' sharding over processes.

A folder holds `part-<rank>.jsonl` files: a first line that says what was run, then a line an image, flushed at once. A
line cut short by a kill is dropped when the file is opened again, and its image is done again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

import torch.distributed as dist

from bench.cli import BadInput

Row = Mapping[str, Any]


class Workers:
    """This process among those that torchrun started; alone without torchrun."""

    def __init__(self) -> None:
        self.rank, self.size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))

    def __enter__(self) -> Workers:
        if self.size > 1:
            dist.init_process_group("gloo", timeout=timedelta(days=2))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self.size > 1 and kind is None:
            dist.destroy_process_group()

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, in every process."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def share(self, items: list[Any]) -> list[Any]:
        """This process's part of a list that all agree on; nothing twice, nothing left over."""
        return items[self.rank :: self.size]


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
            raise BadInput(
                f"cannot write results to {folder}: {error.strerror}; give --results another folder"
            ) from error

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
        """Keep the result of one image."""
        self.rows[image] = {"image": image, **row}
        self._write(self.rows[image])

    def close(self) -> None:
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
