"""Released whole checkpoints (backbone and heads) into a dense model, and its deploy form."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import overlock
from bench.cli import BadInput
from bench.dense.categories import Classes
from bench.dense.layers import ConvModule
from overlock import OverLoCKPyramid
from overlock.checkpoints import reading
from overlock.checkpoints.loading import misfit

Model = TypeVar("Model", bound=nn.Module)


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The state dict of a released file, `{"meta", "state_dict"}` or flat; nothing but tensors and plain data is read.

    Raises:
        BadInput: for a file that is missing, unreadable, or holds no weights.
    """
    try:
        return reading.read_checkpoint(path)
    except (OSError, ValueError) as error:
        raise BadInput(f"{error}: give --weights a released checkpoint") from error


HEADS = ("head.", "aux_head.", "norm.", "fc.", "classifier.")
"""What only the classifier has."""


def load_backbone(backbone: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load a classifier's weights (training form) into a dense backbone, all but its head, in place.

    Raises:
        BadInput: naming missing, unexpected or misshapen entries; the backbone is unchanged then.
    """
    state = _own_names(backbone, state)
    added = getattr(backbone, "added", ())  # left as it was made
    own = backbone.state_dict()
    body = {key: value for key, value in state.items() if key in own or not key.startswith(HEADS)}
    kept = {key: value for key, value in own.items() if key not in body and key.startswith(added or ("\0",))}
    check_names({**body, **kept}, own, source, "no weights of this backbone")
    backbone.load_state_dict({**body, **kept}, strict=True)


def load_dense(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load a whole model's weights (training form, released names) strictly, in place.

    Raises:
        BadInput: naming missing, unexpected or misshapen entries; the model is unchanged then.
    """
    model.load_state_dict(fitted_dense(model, state, source), strict=True)


def fitted_dense(model: nn.Module, state: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """A whole model's weights under its own names; the model may be on the meta device.

    Raises:
        BadInput: naming missing, unexpected or misshapen entries.
    """
    state = _own_names(model.backbone, state, "backbone.")
    check_names(state, model.state_dict(), source, "no checkpoint of this model and head")
    return state


CLASS_LAYERS = (".conv_seg.", ".fc_cls.", ".fc_reg.", ".conv_logits.")
"""What the heads have of each class."""


def check_classes(model: nn.Module, state: Mapping[str, Tensor], path: Path, classes: Classes) -> None:
    """Make sure that a checkpoint's classes are those of the set, as far as its shapes and its `meta` tell.

    Raises:
        BadInput: naming both.
    """
    if why := other_classes(model, state, path, classes):
        raise BadInput(f"{path} {why}: give --categories a file of the checkpoint's classes, in its order")


def other_classes(model: nn.Module, state: Mapping[str, Tensor], path: Path, classes: Classes) -> str:
    """How a checkpoint's classes differ from those of the set, and so of `model`; empty if they do not."""
    own, theirs = class_numbers(model, state)
    if own != theirs:
        return f"has {theirs} classes and the set {own}"
    names = _named_classes(path, classes.custom)
    if names in ((), classes.names):
        return ""
    first = next((pair for pair in zip(names, classes.names, strict=False) if pair[0] != pair[1]), ("", ""))
    return f"has other classes than the set, {first[0]!r} where that has {first[1]!r}"


def class_numbers(model: nn.Module, state: Mapping[str, Tensor]) -> tuple[int, int]:
    """How many classes a model tells apart, and how many a checkpoint of it, which may be of another model."""
    own = model.state_dict()
    layer = next(name for name in own if name.endswith(("conv_seg.weight", "fc_cls.weight")))
    background = layer.endswith("fc_cls.weight")
    given = state.get(layer)
    theirs = given if isinstance(given, Tensor) and given.dim() else own[layer]
    return len(own[layer]) - background, len(theirs) - background


def _named_classes(path: Path, of_others: bool) -> tuple[str, ...]:
    """The names of classes in a checkpoint's `meta`, as `bench.train_coco` writes them, or also as others do."""
    content = reading.read_content(path)
    meta = content.get("meta") if isinstance(content, Mapping) else None
    if not isinstance(meta, Mapping):
        return ()
    named: Any = [name for name, _ in meta.get("categories") or ()]
    if not named and of_others:
        of_set = meta.get("dataset_meta")
        named = meta.get("CLASSES") or (of_set.get("classes") if isinstance(of_set, Mapping) else None)
    return tuple(map(str, named)) if isinstance(named, list | tuple) else ()


def load_start(model: nn.Module, state: dict[str, Tensor], path: Path, classes: Classes) -> str:
    """Load a whole checkpoint into a model that is to be fine-tuned, in place.

    Where its classes are not those of the set, and these are `--categories`', the layers of classes stay as they are.

    Returns:
        What is to be said of that; empty if everything was loaded.

    Raises:
        BadInput: naming missing, unexpected or misshapen entries; the model is unchanged then.
    """
    why = other_classes(model, state, path, classes)
    if not why or not classes.custom:
        load_dense(model, state, str(path))
        return ""
    fresh = {name: value for name, value in model.state_dict().items() if _of_classes(name, value, classes)}
    load_dense(model, {**state, **fresh}, str(path))
    layers = ", ".join(layer.strip(".") for layer in CLASS_LAYERS if any(layer in name for name in fresh))
    return f"{path.name} {why}: {layers} begin anew"


def _of_classes(name: str, value: Tensor, classes: Classes) -> bool:
    one_box = ".fc_reg." in name and len(value) == 4 and len(classes) > 1  # for all classes
    return any(layer in name for layer in CLASS_LAYERS) and not one_box


def _own_names(backbone: Any, state: dict[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """The state with the backbone's own names below `prefix`, where it has others than its authors released."""
    rename = getattr(backbone, "own_name", None)
    if rename is None:
        return state
    return {
        prefix + rename(key.removeprefix(prefix)) if key.startswith(prefix) else key: value
        for key, value in state.items()
    }


def check_names(state: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str, what: str) -> None:
    """Make sure that a state has a model's names and shapes.

    Raises:
        BadInput: `source` is `what`, and the names that differ.
    """
    if differences := misfit(own, state):
        raise BadInput(f"{source} is {what}: {differences}")


@torch.no_grad()
def deploy_dense(model: Model) -> Model:
    """A new model for inference with the same outputs: branches merged, BN folded; the given one is left as it is."""
    merged: Any = copy.deepcopy(model).eval()
    if isinstance(merged.backbone, OverLoCKPyramid) or hasattr(merged.backbone, "to_deploy"):
        merged.backbone = overlock.deploy(merged.backbone)
    for module in merged.modules():
        if isinstance(module, ConvModule) and module.bn is not None:
            module.conv, module.bn = fuse_conv_bn_eval(module.conv, module.bn), None
    return merged
