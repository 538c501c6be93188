"""Which files are released, and OverLoCK's among them: the table `weights.csv`, read."""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from torch import Tensor, nn

from overlock.checkpoints.download import Release, fetch
from overlock.checkpoints.loading import fitted, read_checkpoint

PACKAGE = Path(__file__).resolve().parents[1]
Row = Mapping[str, str]
Model = TypeVar("Model", bound=nn.Module)


@functools.cache
def rows() -> tuple[Row, ...]:
    """The table's rows: packed into an installed wheel, or of the repository's `results/`.

    Raises:
        FileNotFoundError: if it is in neither place, naming both.
    """
    places = (PACKAGE / "data" / "weights.csv", PACKAGE.parent / "results" / "weights.csv")
    for path in places:
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                return tuple(csv.DictReader(file))
    raise FileNotFoundError(f"weights.csv is in neither {places[0].parent} nor {places[1].parent}")


def release(name: str, row: Row, url: str | None = None, file: str | None = None) -> Release:
    """A row as the file of the model `name`. `url` and `file` replace the row's own address and its last part."""
    url = url or row["value"]
    size = row["size_bytes"]
    return Release(name, url, file or url.rpartition("/")[2], row["sha256"] or None, int(float(size)) if size else None)


def overlock_release(name: str, deploy: bool = False) -> Release:
    """The released ImageNet-1K file of `overlock_xt/t/s/b`: of the training form, or of the re-parameterised one."""
    size = name.rpartition("_")[2].upper()
    kind = "checkpoint_url_reparam" if deploy else "checkpoint_url"
    matching = [r for r in rows() if (r["model"], r["dataset"], r["kind"]) == (f"OverLoCK-{size}", "ImageNet-1K", kind)]
    assert len(matching) == 1, f"weights.csv has {len(matching)} rows for {name}"
    return release(name, matching[0])


def released_state(model: nn.Module, released: Release) -> dict[str, Tensor]:
    """The weights of a released file, fetched if need be, under the names and in the shapes of `model`.

    Raises:
        overlock.checkpoints.download.Unavailable: a RuntimeError, if it cannot be fetched or has the wrong sum.
        ValueError: if it holds other weights.
    """
    path = fetch(released)
    return fitted(model, read_checkpoint(path), str(path))
