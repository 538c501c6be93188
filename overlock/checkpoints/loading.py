"""A state dict -> a model: the one strict way, by which every weight of a file arrives, or nothing changes."""

from __future__ import annotations

import logging
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from overlock.checkpoints.reading import plain_names, read_checkpoint, shown

log = logging.getLogger(__name__)


class Misfit(ValueError, RuntimeError):
    """A state dict is not the model's. (A RuntimeError too, which `load_state_dict` is known to raise.)"""


class StrictLoading(nn.Module):
    """A network whose `load_state_dict`, whoever calls it, takes what `fitted` takes, and changes nothing otherwise."""

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        given = OrderedDict(fitted(self, state_dict, "the state dict", strict))
        if hasattr(state_dict, "_metadata"):
            given._metadata = state_dict._metadata  # type: ignore[attr-defined]
        kept = strict and _keeps_auxiliary_head(self, given)  # `fitted` has found every other name
        return super().load_state_dict(given, strict and not kept, assign)


def load_checkpoint(model: nn.Module, path: str | Path) -> None:
    """Load a released file into `model`, strictly, in the model's dtype and on its device.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, or is not the model's: it tells what differs, and loads nothing.
    """
    load_state(model, read_checkpoint(path), str(path))


def load_state(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """`load_checkpoint` for a state dict at hand, from `source`. On the meta device it only checks."""
    state = fitted(model, state, source)
    if not any(parameter.is_meta for parameter in model.parameters()):
        model.load_state_dict(state, strict=True)


def fitted(model: nn.Module, state: Mapping[str, Tensor], source: str, strict: bool = True) -> dict[str, Tensor]:
    """`state` under the model's names, all of them and no others (unless not `strict`), in the model's shapes.

    A network of timm's renames what its authors released. OverLoCK's auxiliary head, which only training uses, may be
    in the file alone, and is left out, or in the model alone, which keeps its own.

    Raises:
        Misfit: a ValueError, naming what is missing, unexpected, of another shape or kind, or not finite, and what to
            do.
    """
    own = model.state_dict()
    wrapped = {plain: name for name, plain in plain_names(own).items()}
    given = {wrapped.get(plain, plain): state[name] for name, plain in plain_names(state).items()}
    if getattr(model, "aux_head", 0) is None:
        given = {key: value for key, value in given.items() if not key.startswith("aux_head.")}
    if _keeps_auxiliary_head(model, given):
        log.warning("%s has no auxiliary head: the model keeps the one that it has", source)
        own = {key: value for key, value in own.items() if not key.startswith("aux_head.")}
    if own.keys() != given.keys():
        given = _renamed(model, given)
    if why := misfit(own, given, strict):
        hint = "; ".join([*_hints(own, given), f"of {len(own)} tensors {why}"])
        raise Misfit(f"{source} does not fit {type(model).__name__}: {hint}")
    return given


def _keeps_auxiliary_head(model: nn.Module, given: Mapping[str, Any]) -> bool:
    """Whether the model has an auxiliary head and the state dict has nothing of one."""
    return getattr(model, "aux_head", None) is not None and not any(key.startswith("aux_head.") for key in given)


def misfit(own: Mapping[str, Any], given: Mapping[str, Any], strict: bool = True) -> str:
    """How a state dict differs from the model's own; empty if it fits."""
    both = [key for key in own if key in given and isinstance(own[key], Tensor)]
    unusable = {key: _unusable(given[key], own[key]) for key in both}
    reshaped = [key for key in both if not unusable[key] and given[key].shape != own[key].shape]
    problems: dict[str, Iterable[str]] = {
        "missing": [key for key in own if strict and key not in given],
        "unexpected": [key for key in given if strict and key not in own],
        "of another shape": [f"{k} is {tuple(given[k].shape)}, the model's {tuple(own[k].shape)}" for k in reshaped],
        "of another kind": [f"{key} is {what}" for key, what in unusable.items() if what],
        "not finite": [f"{key}{_where(given[key], own[key])}" for key in both if not_finite(given[key], own[key])],
    }
    return ", ".join(f"{len(list(keys))} {kind} ({shown(keys)})" for kind, keys in problems.items() if keys)


def _unusable(value: Any, own: Tensor) -> str:
    """What a value is that cannot be copied into the model's own; empty if it can."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    if value.layout != torch.strided:
        return "sparse"
    if value.is_meta and not own.is_meta:
        return "without data (on the meta device)"
    if value.is_quantized != own.is_quantized or value.is_complex() != own.is_complex():
        return str(value.dtype)
    return str(value.dtype) if own.is_floating_point() and not value.is_floating_point() else ""


def not_finite(value: Any, own: Tensor) -> bool:
    """Whether a tensor holds NaN or infinite values, or gets them in the dtype of the model's own."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_meta or value.numel() == 0:
        return False
    if not value.is_floating_point():
        return False
    wide = value if value.dtype.itemsize > 1 else value.float()
    extremes = torch.stack(wide.detach().aminmax())  # NaN if one is
    return not extremes.to(own.dtype).isfinite().all() if own.is_floating_point() else not extremes.isfinite().all()


def _where(value: Tensor, own: Tensor) -> str:
    return "" if value.dtype == own.dtype else f" as {str(own.dtype).removeprefix('torch.')}"


def _hints(own: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """What a file is that does not fit, and what to do, as far as its names and shapes tell."""
    missing, unexpected = own.keys() - given.keys(), given.keys() - own.keys()
    if _biased(unexpected, own):
        return [
            "it is of a deployed model, with batch norms folded into convolutions: load the training checkpoint, "
            "or give the deployed file to a model of that form (deploy=True, or overlock.deploy)"
        ]
    if _biased(missing, given):
        return ["it is of the training form, and the model is deployed: load it before the model is deployed"]
    if unexpected or missing:
        return []
    shapes = [(given[key].shape, own[key].shape) for key in own if own[key].shape != given[key].shape]
    classes = {(a[0], b[0]) if a[1:] == b[1:] and len(a) else None for a, b in shapes}
    if len(classes) == 1 and (pair := classes.pop()):
        return [f"it has {pair[0]} classes and the model {pair[1]}: create the model with num_classes={pair[0]}"]
    return []


def _biased(names: Iterable[str], others: Mapping[str, Any]) -> bool:
    """Whether there are biases among the names of convolutions that have none among the others."""
    stems = [name.removesuffix(".bias") for name in names if name.endswith(".bias")]
    return any(f"{stem}.weight" in others and f"{stem}.bias" not in others for stem in stems)


def _renamed(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """By the `checkpoint_filter_fn` that timm keeps beside a network; as it is where there is none or it fails."""
    modules = [sys.modules[kind.__module__] for kind in type(model).__mro__]
    renames = (getattr(module, "checkpoint_filter_fn", None) for module in modules)
    rename: Callable[..., dict[str, Tensor]] | None = next(filter(None, renames), None)
    if rename is None:
        return state
    try:
        return rename(dict(state), model)
    except (KeyError, IndexError, RuntimeError) as error:
        log.info("timm cannot rename the weights given for %s: %s", type(model).__name__, error)
        return state
