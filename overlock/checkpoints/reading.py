"""Checkpoints as they are released -> a state dict. Nothing but tensors and plain data is read."""

from __future__ import annotations

import argparse
import logging
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

log = logging.getLogger(__name__)

CONTAINERS = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Where files keep their weights, the averaged copy first; a flat file has none of them."""

WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""What torch.compile and torch's other wrappers put into names, of a whole model or of a part."""

SHOWN = 4  # keys named in an error


def _harmless() -> list[Any]:
    """What training scripts leave beside the weights: a namespace of arguments, numpy scalars (numpy 1's and 2's)."""
    scalar: Any = np.float64(0).__reduce__()[0]
    types = {type(np.dtype(code)) for code in "?bBhHiIlLqQefdg"}
    names = ((scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core"))
    return [argparse.Namespace, np.dtype, *types, *names]


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """The state dict of a released file, on the CPU.

    Reads safetensors, and torch's files that are flat or hold the weights under one of `CONTAINERS` (the averaged copy
    where both are there), under the names of `plain_names`. Logs what it took.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, or holds no weights.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give the file of a checkpoint")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    content, taken = read_content(path), "the whole file"
    for container in CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(container), Mapping):
            content, taken = content[container], container
            break
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds no state dict but a {type(content).__name__}")
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"{path} holds no weights; at its top are {shown(map(str, content))}")
    others = [str(key) for key, value in content.items() if not isinstance(value, Tensor)]
    left_out = f"; left out {shown(others)}" if others else ""
    log.info("%s: %d tensors from %s%s", path.name, len(tensors), taken, left_out)
    return {plain: tensors[name] for name, plain in plain_names(tensors).items()}


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """Each name of a state dict -> the one that the model itself has, without what wrappers put into it.

    Those are torch.compile and its like (`WRAPPERS`), DataParallel and AveragedModel (`module.` before every name, in
    any nesting); AveragedModel's counter is left out.

    Raises:
        ValueError: if two names are the same without them.
    """
    plain = {name: re.sub("|".join(map(re.escape, WRAPPERS)), "", name) for name in names}
    if all(name.startswith("module.") or name == "n_averaged" for name in plain.values()):
        plain.pop("n_averaged", None)
    while plain and all(name.startswith("module.") for name in plain.values()):
        plain = {name: short.removeprefix("module.") for name, short in plain.items()}
    if len(set(plain.values())) < len(plain):
        raise ValueError(f"the state dict has names that differ only in {', '.join(WRAPPERS)}: is it of two models?")
    return plain


def read_content(path: Path) -> Any:
    """What a file holds, read as what it is, whatever its name says.

    Raises:
        ValueError: if it cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(9)
    try:
        if start[8:] == b"{":  # after the header's length
            from safetensors.torch import load_file

            return load_file(path)
        if start.startswith((b"PK", b"\x80")):  # a zip file, or the pickle of older versions
            with torch.serialization.safe_globals(_harmless()):
                return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # what is wrong with the file decides which kind: many
        if code := re.search(r"GLOBAL ([\w.]+)", str(error)):
            why = f"it holds {code[1]}, and only tensors and plain data are read; save model.state_dict() alone"
        else:
            text = str(error).rpartition("WeightsUnpickler error: ")[2].strip()
            why = (text.splitlines() or [type(error).__name__])[0]
        raise ValueError(f"cannot read weights from {path}: {why}") from error
    raise ValueError(f"cannot read weights from {path}: " + (f"it begins with {start!r}" if start else "it is empty"))


def shown(keys: Iterable[str]) -> str:
    """The first of the keys, and how many more there are."""
    names = list(keys)
    return ", ".join(names[:SHOWN]) + (f", ... {len(names) - SHOWN} more" if len(names) > SHOWN else "")
