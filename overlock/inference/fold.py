"""From the training form to the one that runs at inference: `deploy(model)`.

Everything that is linear and fixed is folded into the convolution beside it: BN, the dilated branches, the identity of
residual depthwise convolutions (into the centre tap), LayerScale's shift, GRN's beta. All of it in float64, rounded
once. What cannot be folded exactly (LayerScale's factor on a residual, GRN's and SE's gates) stays, in place.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from overlock.blocks import REGIONS, DynamicConvBlock, RepConvBlock
from overlock.inference.blocks import (
    FoldedContMix,
    FoldedConv,
    FoldedDynamicConvBlock,
    FoldedGRN,
    FoldedMLP,
    FoldedRepConvBlock,
    FoldedSE,
)
from overlock.layers import GRN, DilatedReparam, LayerScale, ResDWConv
from overlock.model import FocusDownsample, OverLoCK
from overlock.pyramid import OverLoCKPyramid

Model = TypeVar("Model", bound=nn.Module)


class _Linear:
    """A convolution being folded, in float64: weight (O, I, k, k) and bias (O,)."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight = weight.detach().double()
        self.bias = weight.new_zeros(len(weight), dtype=torch.float64) if bias is None else bias.detach().double()

    def scaled(self, scale: Tensor, shift: Tensor) -> _Linear:
        """Followed by a scale and shift per output channel."""
        scale, shift = scale.detach().double().flatten(), shift.detach().double().flatten()
        self.weight, self.bias = self.weight * scale.view(-1, 1, 1, 1), self.bias * scale + shift
        return self

    def then_bn(self, bn: nn.BatchNorm2d) -> _Linear:
        scale, shift = _bn_affine(bn)
        return self.scaled(scale, shift)

    def after(self, scale: Tensor, shift: Tensor) -> _Linear:
        """Preceded by a scale and shift per input channel (1x1 only: padding would not be shifted)."""
        assert self.weight.shape[-1] == 1
        scale, shift = scale.detach().double().flatten(), shift.detach().double().flatten()
        self.bias = self.bias + self.weight.flatten(1) @ shift
        self.weight = self.weight * scale.view(1, -1, 1, 1)
        return self

    def plus_identity(self) -> _Linear:
        centre = self.weight.shape[-1] // 2
        self.weight = self.weight.clone()
        self.weight[:, 0, centre, centre] += 1
        return self

    def done(self, like: Tensor, activation: str | None = None, stride: int = 1) -> FoldedConv:
        return FoldedConv(self.weight.to(like.dtype), self.bias.to(like.dtype), activation, stride)


def _bn_affine(bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    assert bn.running_mean is not None
    assert bn.running_var is not None
    scale = bn.weight.double() / (bn.running_var.double() + bn.eps).sqrt()
    return scale, bn.bias.double() - bn.running_mean.double() * scale


def _residual_dw(conv: ResDWConv) -> FoldedConv:
    return _Linear(conv.weight, conv.bias).plus_identity().done(conv.weight)


def _large(reparam: DilatedReparam, bn: nn.BatchNorm2d) -> FoldedConv:
    like = reparam.lk_origin.weight
    weight, bias = copy.deepcopy(reparam).double().merged_kernel()
    return _Linear(weight, bias).then_bn(bn).done(like)


def _se(se: Any) -> FoldedSE:
    down, up = se.proj[1], se.proj[3]
    return FoldedSE(FoldedConv(down.weight, down.bias), FoldedConv(up.weight, up.bias))


def _mlp(up: nn.Conv2d, dwconv: ResDWConv, grn: GRN, down: nn.Conv2d, shift: Tensor | None) -> FoldedMLP:
    folded = _Linear(down.weight, down.bias).after(torch.ones_like(grn.gamma), grn.beta)
    if shift is not None:
        folded.scaled(torch.ones_like(shift), shift)
    return FoldedMLP(
        FoldedConv(up.weight, up.bias, "gelu"), _residual_dw(dwconv), FoldedGRN(grn.gamma), folded.done(down.weight)
    )


def _factor(ls: LayerScale) -> Tensor:
    return ls.weight.view(1, -1, 1, 1)


def _rep_conv_block(block: Any) -> FoldedRepConvBlock:
    norm, large, bn, se, up, _, dwconv, grn, down = block.proj
    ls = block.ls if isinstance(block.ls, LayerScale) else None
    return FoldedRepConvBlock(
        _residual_dw(block.dwconv),
        copy.deepcopy(norm),
        _large(large, bn),
        _se(se),
        _mlp(up, dwconv, grn, down, None if ls is None else ls.bias),
        None if ls is None else _factor(ls),
    )


def _dynamic_conv_block(block: Any) -> FoldedDynamicConvBlock:
    depthwise, bn, _, point, grn = block.fusion
    like = point.weight
    contmix = FoldedContMix(
        _Linear(block.weight_query[0].weight, None).then_bn(block.weight_query[1]).done(like),
        _Linear(block.weight_key[1].weight, None).then_bn(block.weight_key[2]).done(like),
        block.weight_proj.weight.flatten(1),
        block.weight_proj.bias,
        block.rpb1,
        block.rpb2,
        block.scale,
        (block.dim, block.ctx_dim),
        REGIONS,
    )
    contmix.backend = block.backend
    proj_bn, proj = block.proj
    ones = torch.ones_like(block.ls1.bias)
    parts: dict[str, nn.Module] = {
        "dwconv1": _residual_dw(block.dwconv1),
        "norm1": copy.deepcopy(block.norm1),
        "fusion_dw": _Linear(depthwise.weight, depthwise.bias).then_bn(bn).done(like, "gelu"),
        "fusion_point": FoldedConv(point.weight, point.bias),
        "fusion_grn": FoldedGRN(grn.gamma, grn.beta),
        "gate": _Linear(block.gate[0].weight, None).then_bn(block.gate[1]).done(like, "silu"),
        "lepe": _large(block.lepe[0], block.lepe[1]),
        "contmix": contmix,
        "dyconv_proj": _Linear(block.dyconv_proj[0].weight, None).then_bn(block.dyconv_proj[1]).done(like),
        "se": _se(block.se_layer),
        "proj": _Linear(proj.weight, proj.bias).after(*_bn_affine(proj_bn)).scaled(ones, block.ls1.bias).done(like),
        "dwconv2": _residual_dw(block.dwconv2),
        "norm2": copy.deepcopy(block.norm2),
        "mlp": _mlp(block.mlp[0], block.mlp[2], block.mlp[3], block.mlp[4], block.ls2.bias),
    }
    mixes = block.mixes_prior
    tensors = {
        "context_scale": _factor(block.x_scale) if mixes else None,
        "prior_scale": _factor(block.h_scale) if mixes else None,
        "prior_shift": (block.x_scale.bias + block.h_scale.bias).view(1, -1, 1, 1) if mixes else None,
        "residual_scale1": _factor(block.ls1),
        "residual_scale2": _factor(block.ls2),
    }
    return FoldedDynamicConvBlock(parts, tensors, block.dim)


def _sequence(layers: nn.Sequential) -> nn.Sequential:
    """Convolution, BN and activation to one convolution each; other layers are kept."""
    out: list[nn.Module] = []
    modules = list(layers)
    while modules:
        layer = modules.pop(0)
        if isinstance(layer, nn.Conv2d):
            folded, activation = _Linear(layer.weight, layer.bias), None
            if modules and isinstance(modules[0], nn.BatchNorm2d):
                folded.then_bn(modules.pop(0))  # type: ignore[arg-type]
            if modules and isinstance(modules[0], nn.GELU | nn.SiLU):
                activation = "gelu" if isinstance(modules.pop(0), nn.GELU) else "silu"
            out.append(folded.done(layer.weight, activation, layer.stride[0]))
        else:
            out.append(copy.deepcopy(layer))
    return nn.Sequential(*out)


def _folded(module: nn.Module) -> nn.Module:
    """The folded copy of an OverLoCK's child."""
    if isinstance(module, RepConvBlock):
        return _rep_conv_block(module)
    if isinstance(module, DynamicConvBlock):
        return _dynamic_conv_block(module)
    if isinstance(module, nn.ModuleList):
        return nn.ModuleList(_folded(child) for child in module)
    if isinstance(module, nn.Sequential):
        return _sequence(module)
    if isinstance(module, nn.Conv2d):
        return FoldedConv(module.weight, module.bias, stride=module.stride[0])
    if isinstance(module, FocusDownsample):
        step = copy.copy(module)
        step._modules = {name: _folded(child) for name, child in module._modules.items() if child is not None}
        return step
    return copy.deepcopy(module)


class ChannelsLast(nn.Module):
    """Lay a map out as the folded blocks run it."""

    def forward(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last)


def _with_children(module: Model, children: dict[str, nn.Module | None]) -> Model:
    """A copy of `module` with these children in place of its own, for evaluation, with nothing to train."""
    new = copy.copy(module)
    new.__dict__ = {k: v.copy() if isinstance(v, dict) else v for k, v in module.__dict__.items()}
    new._modules = children
    new.__dict__["frozen"] = True
    for parameter in new.parameters():
        parameter.requires_grad_(False)
    new.training = False
    for child in new.children():
        child.eval()
    return new


def _fold_network(model: OverLoCK) -> OverLoCK:
    children = {name: None if child is None else _folded(child) for name, child in model._modules.items()}
    children["aux_head"] = None
    assert isinstance(children["patch_embed1"], nn.Sequential)
    children["patch_embed1"] = nn.Sequential(ChannelsLast(), *children["patch_embed1"])
    return _with_children(model, children)


def _fold_pyramid(pyramid: OverLoCKPyramid) -> OverLoCKPyramid:
    net = _fold_network(pyramid.net)
    children = {
        name: net._modules[name] if name in net._modules else copy.deepcopy(child)
        for name, child in pyramid._modules.items()
    }
    new = _with_children(pyramid, children)
    new._net = [net]
    return new


def deploy(model: Model) -> Model:
    """A new model for inference with the outputs that `model` has in evaluation mode; `model` is left as it is.

    Serves OverLoCK (classifier and pyramid; without the auxiliary head), and any model with a `to_deploy()` of its own
    (UniRepLKNet). The result can be saved, moved and cast; `.train()` raises. Its maps are channels_last inside,
    whatever comes in.

    Raises:
        ValueError: for a model that has no such form.
    """
    if getattr(model, "frozen", False):
        return copy.deepcopy(model)
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
