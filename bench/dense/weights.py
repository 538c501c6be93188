"""Released whole checkpoints (backbone and heads) into a dense model, and its deploy form."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import overlock
from baselines.unireplknet import UniRepLKNetPyramid
from bench.cli import BadInput
from bench.dense.backbones import ConvNeXtPyramid
from bench.dense.layers import ConvModule
from overlock import OverLoCKPyramid
from overlock.checkpoints import loading as weights

Model = TypeVar("Model", bound=nn.Module)

CONVNEXT_NAMES = (
    (r"^downsample_layers\.0\.(\d)\.", r"stem.\1."),
    (r"^downsample_layers\.(\d)\.", r"stages.\1.downsample."),
    (r"^stages\.(\d)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"\.dwconv\.", ".conv_dw."),
    (r"\.pwconv(\d)\.", r".mlp.fc\1."),
)
"""Released ConvNeXt names -> timm's."""


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The state dict of a released file, `{"meta", "state_dict"}` or flat; nothing but tensors and plain data is read.

    Raises:
        BadInput: for a file that is missing, unreadable, or holds no weights.
    """
    try:
        return weights.read_checkpoint(path)
    except (OSError, ValueError) as error:
        raise BadInput(f"{error}: give --weights a released checkpoint") from error


ADDED: tuple[tuple[type[nn.Module], tuple[str, ...]], ...] = (
    (OverLoCKPyramid, ("extra_norm.", "h_proj.")),
    (UniRepLKNetPyramid, tuple(f"norm{i}." for i in range(4))),
    (ConvNeXtPyramid, tuple(f"norm{i}." for i in range(4))),
)
"""What a dense backbone has beyond the classifier; left as it was made."""

HEADS = ("head.", "aux_head.", "norm.", "fc.", "classifier.")
"""What only the classifier has."""


def load_backbone(backbone: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load a classifier's weights (training form) into a dense backbone, all but its head, in place.

    Raises:
        BadInput: naming missing, unexpected or misshapen entries; the backbone is unchanged then.
    """
    if isinstance(backbone, ConvNeXtPyramid):
        state = {_convnext_name(f"backbone.{key}").removeprefix("backbone."): value for key, value in state.items()}
    added = next((names for kind, names in ADDED if isinstance(backbone, kind)), ())
    own = backbone.state_dict()
    body = {key: value for key, value in state.items() if key in own or not key.startswith(HEADS)}
    kept = {key: value for key, value in own.items() if key not in body and key.startswith(added or ("\0",))}
    _check({**body, **kept}, own, source, "no weights of this backbone")
    backbone.load_state_dict({**body, **kept}, strict=True)


def load_dense(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load a whole model's weights (training form, released names) strictly, in place.

    Raises:
        BadInput: naming missing, unexpected or misshapen entries; the model is unchanged then.
    """
    if isinstance(model.backbone, ConvNeXtPyramid):
        state = {_convnext_name(key): value for key, value in state.items()}
    _check(state, model.state_dict(), source, "no checkpoint of this model and head")
    model.load_state_dict(state, strict=True)


def _check(state: dict[str, Tensor], own: dict[str, Tensor], source: str, what: str) -> None:
    problems = {
        "missing": [key for key in own if key not in state],
        "unexpected": [key for key in state if key not in own],
        "of another shape": [key for key in state if key in own and state[key].shape != own[key].shape],
    }
    if any(problems.values()):
        differences = "; ".join(f"{len(keys)} {kind} ({', '.join(keys[:3])}{', ...' if keys[3:] else ''})"
                         for kind, keys in problems.items() if keys)  # fmt: skip
        raise BadInput(f"{source} is {what}: {differences}")


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
