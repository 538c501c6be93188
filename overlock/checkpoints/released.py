"""Which files are released, and OverLoCK's among them: the table `weights.csv`, read."""

from __future__ import annotations

import csv
import difflib
import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import PretrainedCfg, load_state_dict_from_hf
from torch import Tensor, nn

from overlock.checkpoints.download import Release, fetch
from overlock.checkpoints.loading import fitted
from overlock.checkpoints.reading import read_checkpoint

PACKAGE = Path(__file__).resolve().parents[1]
Row = Mapping[str, str]

COLUMNS = ("model", "dataset", "resolution", "kind", "value", "sha256", "size_bytes", "format")
"""Of the table, those that are read."""

SOURCES = ("state_dict", "file", "hf_hub_id", "url")
"""Keys of timm's pretrained configuration that name weights, each before the next."""

WHY_NOT = {
    "output_stride": "its stages have strides of 4, 8, 16 and 32, and no dilated form: take an earlier map by "
    "features_only=True and out_indices, or by forward_intermediates",
    "act_layer": "its activations are those that the released weights were trained with",
    "norm_layer": "its norms are those that the released weights were trained with",
    "img_size": "it takes images of any size from 32x32",
    "drop_block_rate": "it has no DropBlock: give drop_path_rate or drop_rate",
    "bn_momentum": "set momentum of its batch norms on the model",
    "bn_eps": "the released weights were trained with the epsilon that its batch norms have",
}
"""Keywords of other networks of timm's, and what to do without them."""

OF_BUILDER = (
    "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict", "pretrained_filter_fn", "pretrained_model_args",
    "cache_dir", "features_only", "out_indices", "feature_cls", "feature_cfg", "kwargs_filter",
)  # fmt: skip
"""Keywords that timm's builder takes for itself."""

FEATURES = ("pretrained_cfg", "features_only", "out_indices", "feature_cls", "feature_cfg", "dense_form", "cache_dir")
"""Keywords that say nothing of the model that weights are of."""


class UnknownKeyword(ValueError, TypeError):
    """A keyword that a network does not take. (A TypeError too, which Python is known to raise.)"""


def refuse_unknown(
    network: Callable[..., nn.Module], name: str, keywords: Iterable[str], also: Sequence[str] = ()
) -> None:
    """Raises UnknownKeyword for a keyword of `timm.create_model` that neither timm's builder nor `network` takes."""
    own = [*inspect.signature(network).parameters, *also]
    for keyword in keywords:
        if keyword in own or keyword in OF_BUILDER:
            continue
        near = difflib.get_close_matches(keyword, [*own, *OF_BUILDER], n=1)
        why = WHY_NOT.get(keyword) or (f"did you mean {near[0]}?" if near else f"it takes {', '.join(own)}")
        raise UnknownKeyword(f"{name} takes no {keyword}: {why}")


@functools.cache
def rows() -> tuple[Row, ...]:
    """The table's rows: packed into an installed wheel, or of the repository's `results/`.

    Raises:
        FileNotFoundError: if it is in neither place, naming both.
        ValueError: if it is damaged.
    """
    places = (PACKAGE / "data" / "weights.csv", PACKAGE.parent / "results" / "weights.csv")
    for path in places:
        if path.is_file():
            return read_rows(path)
    raise FileNotFoundError(f"weights.csv is in neither {places[0].parent} nor {places[1].parent}")


def read_rows(path: Path) -> tuple[Row, ...]:
    """The rows of such a table.

    Raises:
        ValueError: if it is damaged; it names the line.
    """
    read: list[Row] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            for row in csv.DictReader(file, strict=True):
                missing = [name for name in COLUMNS if row.get(name) is None]
                if missing or None in row:
                    raise ValueError(
                        f"row {len(read) + 1} has no {', '.join(missing)}" if missing else "a row too long"
                    )
                size = row["size_bytes"]
                if size and not 0 < float(size) < 1e15:
                    raise ValueError(f"row {len(read) + 1} has a file of {size:.40} bytes")
                if not re.fullmatch(r"([0-9a-f]{64})?", row["sha256"]):
                    raise ValueError(f"row {len(read) + 1} has the SHA-256 {row['sha256']:.80}")
                read.append(row)
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(f"{path} is damaged ({error}): restore it from git, or install overlock again") from error
    if not read:
        raise ValueError(f"{path} is empty: restore it from git, or install overlock again")
    return tuple(read)


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


def create(
    build: Callable[..., nn.Module],
    name: str,
    pretrained: bool,
    file: Callable[[], Release],
    pretrained_cfg_overlay: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> nn.Module:
    """`build(pretrained=..., pretrained_cfg_overlay=..., **kwargs)`, which is timm's, with strictly loaded weights.

    They are `file()`, fetched if need be, unless `pretrained_cfg_overlay` names others by a key of `SOURCES`. They must
    fit the registered model `name` as the keywords make it, with the overlay's classes and input channels (1000 and 3);
    timm then adapts them to the ones asked for.

    Raises:
        overlock.checkpoints.download.Unavailable: a RuntimeError, if they cannot be fetched or have the wrong sum.
        ValueError: if it holds other weights.
    """
    given: Any = kwargs.get("pretrained_cfg")  # timm's, of a model on the hub; or the name of one that timm has
    given = given.to_dict() if isinstance(given, PretrainedCfg) else given
    overlay: dict[str, Any] = {**(given if isinstance(given, Mapping) else {}), **(pretrained_cfg_overlay or {})}
    if pretrained:
        state, source = _named_state(overlay, name, file)
        shape = {key: value for key, value in kwargs.items() if key not in FEATURES}
        shape["num_classes"] = overlay.get("num_classes", 1000)
        shape["in_chans"] = (overlay.get("input_size") or (3,))[0]
        overlay["source"] = None  # timm takes the state dict, and looks no further
        with torch.device("meta"):
            overlay["state_dict"] = fitted(timm.create_model(name, **shape), state, source)
    model = build(pretrained=pretrained, pretrained_cfg_overlay=overlay, **kwargs)
    cfg: Any = model.pretrained_cfg
    cfg["state_dict"] = None  # loaded by now: don't hold a second copy of the weights
    return model


def _named_state(cfg: Mapping[str, Any], name: str, file: Callable[[], Release]) -> tuple[Mapping[str, Tensor], str]:
    """The weights that timm's configuration names, else those of `file()`; and where they come from."""
    if cfg.get("state_dict"):
        return cfg["state_dict"], "the state dict"
    if given := cfg.get("file"):
        hubs = (Path(given, name) for name in ("model.safetensors", "pytorch_model.bin"))  # of a hub's folder
        path = next((file for file in hubs if file.is_file()), Path(given))
    elif hub := cfg.get("hf_hub_id"):
        name_there = {"filename": cfg["hf_hub_filename"]} if cfg.get("hf_hub_filename") else {}
        return load_state_dict_from_hf(hub, weights_only=True, **name_there), str(hub)
    else:
        url = cfg.get("url")
        path = fetch(Release(name, url, url.rpartition("/")[2]) if url else file())
    return read_checkpoint(path), str(path)
