"""From the training form to the one that runs at inference: `deploy(model)`.

Everything that is linear and fixed is folded into the convolution beside it: BN, the dilated branches, the identity of
residual depthwise convolutions (into the centre tap), the shift of a LayerScale, the beta of a GRN.
"""

from __future__ import annotations

import copy
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from overlock.blocks import DynamicConvBlock, RepConvBlock
from overlock.fusion import AuxiliaryHead, Stem, fused
from overlock.inference.blocks import FoldedDynamicConvBlock, FoldedRepConvBlock
from overlock.inference.folded_conv import Folding
from overlock.layers import refuse_changed
from overlock.model import FocusDownsample, OverLoCK
from overlock.pyramid import OverLoCKPyramid

Model = TypeVar("Model", bound=nn.Module)


def _sequence(layers: nn.Sequential) -> nn.Sequential:
    """Convolution, BN and activation to one convolution each; other layers are kept."""
    out: list[nn.Module] = []
    modules = list(layers)
    while modules:
        layer = modules.pop(0)
        if isinstance(layer, nn.Conv2d):
            folding, activation = Folding(layer), None
            if modules and isinstance(modules[0], nn.BatchNorm2d | nn.SyncBatchNorm):
                folding.then_bn(modules.pop(0))  # type: ignore[arg-type]
            if modules and isinstance(modules[0], nn.GELU | nn.SiLU):
                activation = "gelu" if isinstance(modules.pop(0), nn.GELU) else "silu"
            out.append(folding.done(activation))
        else:
            out.append(copy.deepcopy(layer))
    return nn.Sequential(*out)


class ChannelsLast(nn.Module):
    """Lay a map out as the folded blocks run it."""

    def forward(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last)


fused.register(RepConvBlock, FoldedRepConvBlock)
fused.register(DynamicConvBlock, FoldedDynamicConvBlock)
fused.register(nn.Sequential, _sequence)
fused.register(Stem, lambda stem: nn.Sequential(ChannelsLast(), *_sequence(stem)))
fused.register(AuxiliaryHead, lambda head: None)
fused.register(nn.Conv2d, lambda conv: Folding(conv).done())


@fused.register(nn.ModuleList)
def _fused_list(blocks: nn.ModuleList) -> nn.Module:
    return nn.ModuleList(part for block in blocks if (part := fused(block)) is not None)


@fused.register(FocusDownsample)
def _fused_step(module: FocusDownsample) -> nn.Module:
    step = copy.copy(module)
    step._modules = {name: fused(child) for name, child in module._modules.items() if child is not None}
    return step


def _with_children(module: Model, children: dict[str, nn.Module | None]) -> Model:
    """A copy of `module` with these children in place of its own, for evaluation, with nothing to train."""
    new = copy.copy(module)
    new.__dict__ = {k: v.copy() if isinstance(v, dict) else v for k, v in module.__dict__.items()}
    new._modules = children
    for parameter in new.parameters():
        parameter.requires_grad_(False)
    new.training = False
    for child in new.children():
        child.eval()
    return new


def _fold_network(model: OverLoCK) -> OverLoCK:
    children = {name: None if child is None else fused(child) for name, child in model._modules.items()}
    return _with_children(model, children)


def _fold_pyramid(pyramid: OverLoCKPyramid) -> OverLoCKPyramid:
    net = _fold_network(pyramid.net)  # whose modules are the pyramid's
    new = _with_children(pyramid, net._modules)
    new._net = [net]
    return new


@torch.no_grad()
def deploy(model: Model) -> Model:
    """A new model for inference with the outputs that `model` has in evaluation mode; `model` is left as it is.

    Serves OverLoCK (classifier and pyramid; without the auxiliary head), and any model with a `to_deploy()` of its own
    (UniRepLKNet). The result can be saved, moved and cast; `.train()` raises. Its maps are channels_last inside,
    whatever comes in.

    Raises:
        ValueError: for a model that has no such form, or a layer that is not as it was made: adapted, parametrised,
            pruned, hooked, or of another kind.
    """
    if getattr(model, "frozen", False):
        return copy.deepcopy(model)
    if isinstance(model, OverLoCK | OverLoCKPyramid):
        refuse_changed(model)
    if isinstance(model, OverLoCK):
        return cast(Model, _fold_network(model))
    if isinstance(model, OverLoCKPyramid):
        return cast(Model, _fold_pyramid(model))
    to_deploy = getattr(model, "to_deploy", None)
    if to_deploy is not None:
        return to_deploy()
    raise ValueError(
        f"{type(model).__name__} has no deploy form: OverLoCK and models with a to_deploy() method have one"
    )
