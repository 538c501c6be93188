"""Checkpoints as they are released -> a state dict -> a model, strictly. Nothing but tensors and plain data is read."""

from __future__ import annotations

import argparse
import logging
import sys
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

CONTAINERS = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Where files keep their weights, the averaged copy first; a flat file has none of them."""

SOURCES = ("state_dict", "file", "url", "hf_hub_id")
"""Keys of timm's pretrained configuration that name weights."""

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
    where both are there), with or without `module.` before every name. Logs what it took.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, or holds no weights.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    content, taken = _content(path), "the whole file"
    for container in CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(container), Mapping):
            content, taken = content[container], container
            break
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds no state dict but a {type(content).__name__}")
    state = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise ValueError(f"{path} holds no weights; at its top are {_shown(map(str, content))}")
    if all(key.startswith("module.") for key in state):
        state, taken = {key.removeprefix("module."): value for key, value in state.items()}, f"{taken}, module. removed"
    others = [str(key) for key, value in content.items() if not isinstance(value, Tensor)]
    left_out = f"; left out {_shown(others)}" if others else ""
    log.info("%s: %d tensors from %s%s", path.name, len(state), taken, left_out)
    return state


def _content(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with torch.serialization.safe_globals(_harmless()):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # what is wrong with the file decides which kind: many
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"cannot read weights from {path}: {lines[0]}") from error


def load_checkpoint(model: nn.Module, path: str | Path) -> None:
    """Load a released file into `model`, strictly, in the model's dtype and on its device.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, or names or shapes are not the model's: it tells which, and loads nothing.
    """
    load_state(model, read_checkpoint(path), str(path))


def load_state(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """`load_checkpoint` for a state dict at hand, from `source`. On the meta device it only checks."""
    state = fitted(model, state, source)
    if not any(parameter.is_meta for parameter in model.parameters()):
        model.load_state_dict(state, strict=True)


def fitted(model: nn.Module, state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """`state` under the model's names, all of them and no others, in the model's shapes.

    A network of timm's renames what its authors released; a model without OverLoCK's auxiliary head, which only
    training uses, takes a file that has it.

    Raises:
        ValueError: naming what is missing, unexpected or of another shape.
    """
    own, given = model.state_dict(), dict(state)
    if getattr(model, "aux_head", 0) is None:
        given = {key: value for key, value in given.items() if not key.startswith("aux_head.")}
    if own.keys() != given.keys():
        given = _renamed(model, given)
    missing, unexpected = [k for k in own if k not in given], [k for k in given if k not in own]
    reshaped = [
        f"{key} is {tuple(given[key].shape)}, the model's {tuple(own[key].shape)}"
        for key in own
        if key in given and given[key].shape != own[key].shape
    ]
    problems = (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
    wrong = [f"{len(names)} {kind} ({_shown(names)})" for kind, names in problems if names]
    if wrong:
        raise ValueError(f"{source} does not fit {type(model).__name__}: of {len(own)} tensors {', '.join(wrong)}")
    return given


def _renamed(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """By the `checkpoint_filter_fn` that timm keeps beside a network; as it is where there is none or it fails."""
    rename: Callable[..., dict[str, Tensor]] | None = getattr(
        sys.modules[type(model).__module__], "checkpoint_filter_fn", None
    )
    if rename is None:
        return state
    try:
        return rename(dict(state), model)
    except (KeyError, IndexError, RuntimeError) as error:
        log.info("timm cannot rename the weights given for %s: %s", type(model).__name__, error)
        return state


def _shown(keys: Iterable[str]) -> str:
    names = list(keys)
    return ", ".join(names[:SHOWN]) + (f", ... {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def weights_overlay(
    overlay: Mapping[str, Any] | None, pretrained: bool, released: Callable[[], dict[str, Tensor]]
) -> dict[str, Any]:
    """timm's `pretrained_cfg_overlay` with the weights that `pretrained=True` loads: `released()` unless it names some.

    A file that it names is read here, where only tensors and plain data are.
    """
    values = dict(overlay or {})
    if not pretrained:
        return values
    if values.get("file") and not values.get("state_dict"):
        values["state_dict"] = read_checkpoint(values.pop("file"))
    elif not any(values.get(source) for source in SOURCES):
        values["state_dict"] = released()
    return values
