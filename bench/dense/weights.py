"""Released whole checkpoints (backbone and heads) into a dense model, and its deploy form."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import overlock
from baselines.unireplknet import UniRepLKNetPyramid
from bench.cli import BadInput
from bench.dense.backbones import ConvNeXtPyramid
from bench.dense.layers import ConvModule
from overlock import OverLoCKPyramid

Model = TypeVar("Model", bound=nn.Module)

CONTAINERS = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Where files keep the weights, by preference; a flat file has none of them."""

CONVNEXT_NAMES = (
    (r"^downsample_layers\.0\.(\d)\.", r"stem.\1."),
    (r"^downsample_layers\.(\d)\.", r"stages.\1.downsample."),
    (r"^stages\.(\d)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"\.dwconv\.", ".conv_dw."),
    (r"\.pwconv(\d)\.", r".mlp.fc\1."),
)
"""Released ConvNeXt names -> timm's."""


def numpy_scalars() -> list[Any]:
    """What a pickled numpy scalar refers to, under the names of numpy 1 and 2."""
    scalar: Any = np.float64(0).__reduce__()[0]
    types = {type(np.dtype(code)) for code in "?bBhHiIlLqQefdg"}
    return [np.dtype, *types, *((scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core"))]


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The state dict of a released file, `{"meta", "state_dict"}` or flat; nothing but tensors and plain data is read.

    Raises:
        BadInput: for a file that is missing, unreadable, or holds no weights.
    """
    try:
        with torch.serialization.safe_globals(numpy_scalars()):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError as error:
        raise BadInput(f"no weights at {path}: give --weights a file") from error
    except Exception as error:  # torch raises many kinds, by what is wrong with the file
        raise BadInput(f"cannot read the weights in {path}: {str(error).splitlines()[0]}") from error
    for container in CONTAINERS:
        if isinstance(content, dict) and isinstance(content.get(container), dict):
            content = content[container]
            break
    if not isinstance(content, dict) or not any(isinstance(value, Tensor) for value in content.values()):
        raise BadInput(f"{path} holds no state dict: give a released checkpoint")
    return {key.removeprefix("module."): value for key, value in content.items() if isinstance(value, Tensor)}


def load_dense(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load a whole model's weights (training form, released names) strictly, in place.

    Raises:
        BadInput: naming missing, unexpected or misshapen entries; the model is unchanged then.
    """
    if isinstance(model.backbone, ConvNeXtPyramid):
        state = {_convnext_name(key): value for key, value in state.items()}
    own = model.state_dict()
    problems = {
        "missing": [key for key in own if key not in state],
        "unexpected": [key for key in state if key not in own],
        "of another shape": [key for key in state if key in own and state[key].shape != own[key].shape],
    }
    if any(problems.values()):
        told = "; ".join(f"{len(keys)} {kind} ({', '.join(keys[:3])}{', ...' if keys[3:] else ''})"
                         for kind, keys in problems.items() if keys)  # fmt: skip
        raise BadInput(f"{source} is no checkpoint of this model and head: {told}")
    model.load_state_dict(state, strict=True)


def _convnext_name(key: str) -> str:
    if not key.startswith("backbone."):
        return key
    name = key.removeprefix("backbone.")
    if re.match(r"stages\.\d\.blocks|stem\.", name):  # timm's names already
        return key
    for pattern, replacement in CONVNEXT_NAMES:
        name = re.sub(pattern, replacement, name)
    return f"backbone.{name}"


@torch.no_grad()
def deploy_dense(model: Model) -> Model:
    """A new model for inference with the same outputs: branches merged, BN folded; the given one is left as it is."""
    merged: Any = copy.deepcopy(model).eval()
    if isinstance(merged.backbone, OverLoCKPyramid | UniRepLKNetPyramid):
        merged.backbone = overlock.deploy(merged.backbone)
    for module in merged.modules():
        if isinstance(module, ConvModule) and module.bn is not None:
            module.conv, module.bn = fuse_conv_bn_eval(module.conv, module.bn), None
    return merged
