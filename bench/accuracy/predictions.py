"""What is kept of an evaluation: for each image its label, five best classes and the true class's rank.

While a run goes, its batches are kept by `bench.evaluation.store`; the finished run is one `predictions.npz`.
"""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from bench.cli import BadInput
from bench.evaluation.store import Store, images_of, replace

FINISHED = "predictions.npz"
EVALUATED, UNREADABLE, NOT_FINITE = 0, 1, 2
NO_CLASS = 65_535
NAMING = {"model", "form", "resolution", "manifest"}
"""What every header has."""

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


DAMAGE = (OSError, EOFError, TypeError, ValueError, LookupError, AttributeError, RecursionError, BadZipFile, zlib.error)
"""What reading a damaged file raises, by where the damage is."""


def read(path: Path) -> Predictions:
    """A `predictions.npz`.

    Raises:
        BadInput: if the file is no such thing.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            header = json.loads(str(arrays["header"]))
            if not isinstance(header, dict) or not header.keys() >= NAMING:
                raise ValueError("its header does not say of what")
            rows = np.zeros(len(arrays["label"]), ROW)
            for name in ("label", "rank", "top5", "status"):
                values = arrays[name]
                if not np.can_cast(values.dtype, ROW[name].base) or values.shape != rows[name].shape:
                    raise ValueError(f"{name} of type {values.dtype} and shape {values.shape}")
                rows[name] = values
            rows["image"] = np.arange(len(rows))
            return Predictions(header, rows)
    except DAMAGE as error:
        raise BadInput(f"{path}: no file of predictions, or damaged ({error}): remove it, or give another") from error


def key(header: Mapping[str, Any]) -> str:
    """The folder of a run: its model, form and resolution, and a hash of everything in its header."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()
    return "-".join(str(header[name]).replace("/", "_") for name in ("model", "form", "resolution")) + f"-{digest[:12]}"


class BatchRows:
    """The form in which batches of `batch` of the `images` are kept: their rows, one after another."""

    suffix = "bin"

    def __init__(self, images: int, batch: int) -> None:
        self.images, self.batch = images, batch

    def encode(self, number: int, result: Rows) -> bytes:
        assert result["image"].tolist() == list(images_of(number, self.batch, self.images))
        return result.tobytes()

    def decode(self, content: bytes) -> tuple[dict[int, Rows], int]:
        return self.split(np.frombuffer(content[: len(content) // ROW.itemsize * ROW.itemsize], ROW))

    def split(self, rows: Rows) -> tuple[dict[int, Rows], int]:
        """The whole batches that `rows` begin with, and their bytes."""
        whole: dict[int, Rows] = {}
        at = 0
        while at < len(rows):
            number = int(rows["image"][at]) // self.batch
            images = images_of(number, self.batch, self.images)
            batch = rows[at : at + len(images)]
            if not len(images) or batch["image"].tolist() != list(images):
                break
            whole[number] = batch
            at += len(images)
        return whole, at * ROW.itemsize


def open_store(folder: Path, header: Mapping[str, Any], images: int, batch: int, rank: int = 0) -> Store[Rows]:
    """The predictions of one run, which may be finished: then all of them are there.

    Raises:
        BadInput: as `Store` does.
    """
    form = BatchRows(images, batch)
    store = Store(folder, header, form, rank)
    if (folder / FINISHED).exists():
        try:
            finished = read(folder / FINISHED)
            store.check_header(finished.header)
            if len(finished.rows) != images:
                raise BadInput(f"{folder / FINISHED} is damaged: {len(finished.rows)} of {images} images: remove it")
        except BadInput:
            store.close()
            raise
        store.results, _ = form.split(finished.rows)
    return store


def finish(store: Store[Rows], results: Mapping[int, Rows], write: bool = True) -> Predictions:
    """All batches as the finished run; `write` replaces the parts by its file, the same bytes however it came about.

    Raises:
        BadInput: if it cannot be written.
    """
    predictions = Predictions(store.header, np.concatenate([results[number] for number in range(len(results))]))
    path = store.folder / FINISHED
    if write and not path.exists():
        content = io.BytesIO()
        arrays: Any = {name: predictions.rows[name] for name in ("label", "rank", "top5", "status")}
        np.savez_compressed(content, header=np.array(json.dumps(dict(store.header), sort_keys=True)), **arrays)
        try:
            replace(path, content.getvalue())
            store.discard()
        except OSError as error:
            raise store.cannot_write(error) from error
    return predictions
