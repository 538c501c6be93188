"""What is kept of an evaluation: for each image its label, five best classes and the true class's rank.

While a run goes, each process appends whole batches to `part-<rank>.bin`; a batch cut short by a kill or a full disk is
dropped when the file is opened again. The finished run is one `predictions.npz`, the same bytes however it came about.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout

from bench.cli import BadInput

EVALUATED, UNREADABLE, NOT_FINITE = 0, 1, 2
NO_CLASS = 65_535
ROW = np.dtype([("image", "<u4"), ("label", "<u2"), ("rank", "<u2"), ("top5", "<u2", (5,)), ("status", "u1")])
"""`rank` counts the classes with a higher logit than the label's, equal ones of lower index included. `status` is
EVALUATED, UNREADABLE (no prediction) or NOT_FINITE (of the logits); the latter two have NO_CLASS everywhere."""

Rows = npt.NDArray[np.void]


@dataclass(frozen=True)
class Predictions:
    """A finished evaluation: rows in the images' order, and the header that says of what."""

    header: Mapping[str, Any]
    rows: Rows

    @property
    def evaluated(self) -> npt.NDArray[np.bool_]:
        """Which images count: all but unreadable ones."""
        return np.asarray(self.rows["status"] != UNREADABLE)

    def correct(self, k: int) -> npt.NDArray[np.bool_]:
        """Whether the label is among the k best classes."""
        return np.asarray((self.rows["status"] == EVALUATED) & (self.rows["rank"] < k))


def read(path: Path) -> Predictions:
    """A `predictions.npz`.

    Raises:
        BadInput: if the file is no such thing.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            rows = np.zeros(len(arrays["label"]), ROW)
            for name in ("label", "rank", "top5", "status"):
                rows[name] = arrays[name]
            rows["image"] = np.arange(len(rows))
            return Predictions(json.loads(str(arrays["header"])), rows)
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"{path}: no file of predictions: {error}") from error


def key(header: Mapping[str, Any]) -> str:
    """The folder of a run: its model, form and resolution, and a hash of everything in its header."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()
    return "-".join(str(header[name]).replace("/", "_") for name in ("model", "form", "resolution")) + f"-{digest[:12]}"


class Store:
    """The predictions of one run, in one folder, across processes and kills.

    Args:
        folder: is made where it does not exist; belongs to this header alone (`key`).
        header: what is run.
        images, batch: how many images there are, and how many a batch.
        rank: of this process: it writes its own part and reads all.

    Raises:
        BadInput: if it cannot be written, or another process is writing to it.
    """

    def __init__(self, folder: Path, header: Mapping[str, Any], images: int, batch: int, rank: int = 0) -> None:
        self.folder, self.images, self.batch = folder, images, batch
        self.header: Mapping[str, Any] = json.loads(json.dumps(header))
        self.finished: Predictions | None = None
        self.rows: dict[int, Rows] = {}
        self._path = folder / f"part-{rank}.bin"
        self._lock = FileLock(f"{self._path}.lock")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
            if self.result.exists():
                self.finished = read(self.result)
                return
            for part in sorted(folder.glob("part-*.bin")):
                self._take(self._whole(part.read_bytes()))
            self._size = sum(len(rows) for rows in self._own.values()) * ROW.itemsize
        except Timeout as error:
            raise BadInput(
                f"another run is writing to {folder}: wait for it, or give --results another folder"
            ) from error
        except OSError as error:
            raise self._cannot(error) from error

    @property
    def result(self) -> Path:
        return self.folder / "predictions.npz"

    @property
    def batches(self) -> int:
        return -(-self.images // self.batch)

    @property
    def done(self) -> set[int]:
        """Numbers of the batches that some process of this machine has kept."""
        return set(range(self.batches)) if self.finished else set(self.rows)

    @property
    def _own(self) -> dict[int, Rows]:
        content = self._path.read_bytes() if self._path.exists() else b""
        return self._whole(content)

    def _images_of(self, number: int) -> range:
        return range(number * self.batch, min((number + 1) * self.batch, self.images))

    def _whole(self, content: bytes) -> dict[int, Rows]:
        """The whole batches that a part begins with."""
        rows = np.frombuffer(content[: len(content) // ROW.itemsize * ROW.itemsize], ROW)
        found: dict[int, Rows] = {}
        at = 0
        while at < len(rows):
            number = int(rows["image"][at]) // self.batch
            wanted = self._images_of(number)
            taken = rows[at : at + len(wanted)]
            if not len(wanted) or taken["image"].tolist() != list(wanted):
                break
            found[number] = taken
            at += len(wanted)
        return found

    def _take(self, found: Mapping[int, Rows]) -> None:
        self.rows |= found

    def add(self, number: int, rows: Rows) -> None:
        """Keep a batch.

        Raises:
            BadInput: if it cannot be written; what was kept before stays.
        """
        assert rows["image"].tolist() == list(self._images_of(number))
        try:
            with self._path.open("r+b" if self._path.exists() else "w+b") as file:
                file.seek(self._size)
                file.write(rows.tobytes())
                file.truncate()
        except OSError as error:
            raise self._cannot(error) from error
        self._size += rows.nbytes
        self.rows[number] = rows

    def _cannot(self, error: OSError) -> BadInput:
        return BadInput(
            f"cannot write results to {self.folder}: {error.strerror or error}; what was counted is kept: make room "
            "and run again, or give --results another folder"
        )

    def finish(self, rows: Mapping[int, Rows], write: bool = True) -> Predictions:
        """All batches, of whichever process, as the finished run; `write` replaces the parts by its file."""
        if self.finished is None:
            ordered = np.concatenate([rows[number] for number in range(self.batches)])
            self.finished = Predictions(self.header, ordered)
            if write:
                self._write(self.finished)
        return self.finished

    def _write(self, predictions: Predictions) -> None:
        content = io.BytesIO()
        arrays: Any = {name: predictions.rows[name] for name in ("label", "rank", "top5", "status")}
        np.savez_compressed(content, header=np.array(json.dumps(dict(self.header), sort_keys=True)), **arrays)
        partial = self.result.with_name(f"predictions.{os.getpid()}.part")
        try:
            partial.write_bytes(content.getvalue())
            partial.replace(self.result)
            for part in (*self.folder.glob("part-*.bin"), *self.folder.glob("predictions.*.part")):
                part.unlink(missing_ok=True)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise self._cannot(error) from error

    def close(self) -> None:
        self._lock.release()
        Path(self._lock.lock_file).unlink(missing_ok=True)
