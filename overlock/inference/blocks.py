"""OverLoCK's blocks as they run at inference: folded, in place where nothing else reads, fused where the device can.

Each is made from its training form, in `overlock.blocks` and `overlock.layers`, which it leaves as it is. Every tensor
here is a parameter without gradient: it is counted, and there is nothing to train. What is folded is computed in
float64 and rounded once. What cannot be folded exactly stays: the factor of a LayerScale on a residual, the gates of
GRN and SE.

Shapes: B batch, C channels, Cc channels of the context, H W map.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overlock.blocks import REGIONS, DynamicConvBlock, RepConvBlock
from overlock.contmix import choose_backend, contmix_merged, enlarged_size, merge_biases
from overlock.contmix import contmix as contmix_unmerged
from overlock.inference import block_triton, fusions, mlp_triton, native_block
from overlock.inference import grn as grn_kernel
from overlock.inference.convolution import conv_of_vector
from overlock.inference.folded_conv import FoldedConv, Folding, Frozen, folded_large, folded_residual
from overlock.layers import GRN, SE, DilatedReparam, LayerNorm2d, LayerScale, ResDWConv, channel_dot
from overlock.tracing import as_one_node, is_captured, is_exporting, is_symbolic

HIDDEN_BYTES = 8 << 20  # of an MLP's hidden map at a time: larger ones are mapped afresh, page by page, at every call
CACHED_SIZES = 4
MLP = (nn.Conv2d, nn.GELU, ResDWConv, GRN, nn.Conv2d)
CACHED_BYTES = 8 << 20  # merged biases of larger maps are made again: 12 blocks would hold hundreds of megabytes


def _layers(sequence: nn.Sequential, *kinds: type[nn.Module]) -> list[Any]:
    """The layers of a sequence that is taken apart.

    Raises:
        ValueError: where one is of another kind than is folded.
    """
    layers = list(sequence)
    same: dict[type[nn.Module], type[nn.Module]] = {nn.SyncBatchNorm: nn.BatchNorm2d}  # in evaluation mode
    if [same.get(type(layer), type(layer)) for layer in layers] != list(kinds):
        got, wanted = ([kind.__name__ for kind in row] for row in (map(type, layers), kinds))
        raise ValueError(f"cannot fold {', '.join(got)}: what is folded is {', '.join(wanted)}")
    for layer in layers:
        if isinstance(layer, nn.GELU) and layer.approximate != "none":
            raise ValueError(f"cannot fold {layer}: what is folded is the exact GELU")
    return layers


def _factor(ls: LayerScale) -> Tensor:
    return ls.weight.view(1, -1, 1, 1)


def _of(conv: FoldedConv) -> tuple[Tensor, Tensor]:
    """Its weight and bias, which every folded convolution has."""
    assert conv.bias is not None
    return conv.weight, conv.bias


def _conv_norm(conv: FoldedConv, norm: LayerNorm2d, x: Tensor) -> tuple[Tensor, Tensor]:
    """A 3x3 convolution of x, and the norm of that."""
    if fusions.why_not("norm", x) is None:
        return block_triton.conv_norm(x, *_of(conv), norm.weight, norm.bias, norm.eps)
    x = conv(x)
    return x, norm(x)


class FoldedSE(nn.Module):
    """The gate (B, C, 1, 1) of squeeze-and-excitation."""

    def __init__(self, se: SE) -> None:
        super().__init__()
        _, down, _, up = _layers(se.proj, nn.AdaptiveAvgPool2d, nn.Conv2d, nn.GELU, nn.Conv2d)
        self.down, self.up = Folding(down).done(), Folding(up).done()

    def forward(self, x: Tensor) -> Tensor:
        if fusions.why_not("gate", x) is None:
            down, up = _of(self.down), _of(self.up)
            return block_triton.squeeze(x, *down, *up)
        hidden = F.gelu(conv_of_vector(x.mean((2, 3), keepdim=True), self.down.weight, self.down.bias))
        return conv_of_vector(hidden, self.up.weight, self.up.bias).sigmoid_()


class FoldedGRN(Frozen):
    """GRN, without its beta where that is folded into the convolution after it."""

    gamma: Tensor
    beta: Tensor | None

    def __init__(self, gamma: Tensor, beta: Tensor | None = None) -> None:
        super().__init__()
        self.hold(gamma=gamma, beta=beta)

    def scale(self, x: Tensor) -> Tensor:
        norm = channel_dot(x, x).sqrt_()
        return (norm * self.gamma).div_(norm.mean(dim=1, keepdim=True) + 1e-6).add_(1).to(x.dtype)

    def forward(self, x: Tensor, dwconv: FoldedConv | None = None) -> Tensor:
        """In place, after a 3x3 depthwise convolution where there is one."""
        if grn_kernel.why_not(x) is None:
            conv = None if dwconv is None else (dwconv.weight, dwconv.bias)
            return grn_kernel.normalise_(x, self.gamma, self.beta, conv)
        x = x if dwconv is None else dwconv(x)
        x = x.mul_(self.scale(x))
        return x if self.beta is None else x.add_(self.beta)


def _image_chunks(x: Tensor, channels: int, chunk_bytes: int) -> list[slice]:
    """The images of (B, C, H, W) a few at a time on a CPU, so that a map of `channels` of them fits `chunk_bytes`."""
    batch = x.shape[0]
    if x.device.type != "cpu" or is_captured():
        return [slice(None)]
    image_bytes = channels * x.shape[2] * x.shape[3] * x.element_size()
    count = -(-batch // max(1, chunk_bytes // image_bytes))  # chunks, then made even
    step = -(-batch // count)
    return [slice(first, first + step) for first in range(0, batch, step)]


class FoldedMLP(nn.Module):
    """residual = residual * scale + down(GRN(dw3x3(GELU(up(x))))), in place, and the shift of the LayerScale."""

    def __init__(self, up: nn.Conv2d, dwconv: ResDWConv, grn: GRN, down: nn.Conv2d, ls: LayerScale | None) -> None:
        super().__init__()
        self.up, self.dwconv, self.grn = Folding(up).done("gelu"), folded_residual(dwconv), FoldedGRN(grn.gamma)
        folding = Folding(down).after_shift(grn.beta)
        self.down = (folding if ls is None else folding.shifted(ls.bias)).done()

    def forward(self, residual: Tensor, x: Tensor, scale: Tensor | None = None, factor: Tensor | None = None) -> Tensor:
        """`factor` (B, C, 1, 1) multiplies x, which may be overwritten."""
        if fusions.why_not("mlp", residual, x) is None:
            weights = mlp_triton.Weights(*_of(self.up), *_of(self.dwconv), self.grn.gamma, *_of(self.down))
            return mlp_triton.mlp_(residual, x, weights, scale, factor)
        if factor is not None:
            x = x.mul_(factor)
        if scale is not None:
            residual.mul_(scale)
        if is_exporting():  # a slice that is written becomes a scatter in a graph
            return self.down.add_to_(residual, self.grn(self.up(x), self.dwconv))
        for images in _image_chunks(x, self.up.weight.shape[0], HIDDEN_BYTES):
            self.down.add_to_(residual[images], self.grn(self.up(x[images]), self.dwconv))
        return residual


class FoldedRepConvBlock(Frozen):
    """`RepConvBlock`, folded."""

    residual_scale: Tensor | None

    def __init__(self, block: RepConvBlock) -> None:
        super().__init__()
        norm, large, bn, se, up, _, dwconv, grn, down = _layers(
            block.proj, LayerNorm2d, DilatedReparam, nn.BatchNorm2d, SE, *MLP
        )
        ls = block.ls if isinstance(block.ls, LayerScale) else None
        self.dwconv = folded_residual(block.dwconv)
        self.norm = copy.deepcopy(norm)
        self.large = folded_large(large, bn)
        self.se = FoldedSE(se)
        self.mlp = FoldedMLP(up, dwconv, grn, down, ls)
        self.hold(residual_scale=None if ls is None else _factor(ls))

    def forward(self, x: Tensor) -> Tensor:
        if is_symbolic(x):
            return as_one_node(self, x)
        own = native_block.rep_conv_block(self, x)
        if own is not None:
            return own
        x, y = _conv_norm(self.dwconv, self.norm, x)
        y = self.large(y)
        return self.mlp(x, y, self.residual_scale, self.se(y))


class FoldedContMix(Frozen):
    """Query, key and ContMix itself, with biases merged once for each size of map."""

    proj_weight: Tensor
    proj_bias: Tensor
    rpb1: Tensor
    rpb2: Tensor

    def __init__(self, block: DynamicConvBlock) -> None:
        super().__init__()
        query, query_bn = _layers(block.weight_query, nn.Conv2d, nn.BatchNorm2d)
        _, key, key_bn = _layers(block.weight_key, nn.AdaptiveAvgPool2d, nn.Conv2d, nn.BatchNorm2d)
        self.query, self.key = Folding(query).then_bn(query_bn).done(), Folding(key).then_bn(key_bn).done()
        self.scale, self.dims, self.kernel_size = block.scale, (block.dim, block.ctx_dim), block.kernel_size
        self.backend = block.backend
        proj = block.weight_proj
        self.hold(proj_weight=proj.weight.flatten(1), proj_bias=proj.bias, rpb1=block.rpb1, rpb2=block.rpb2)
        self._biases: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_biases": {}}

    def _apply(self, *args: object, **kwargs: object) -> nn.Module:
        self._biases.clear()
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, *args: object, **kwargs: object) -> None:
        self._biases.clear()
        super()._load_from_state_dict(*args, **kwargs)

    def biases(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        known = self._biases.get((height, width))
        if known is None:
            known = merge_biases(self.proj_bias, self.rpb1, self.rpb2, height, width)
            if sum(x.numel() * x.element_size() for x in known) <= CACHED_BYTES:
                while len(self._biases) >= CACHED_SIZES:
                    del self._biases[next(iter(self._biases))]
                self._biases[height, width] = known
        return known

    def forward(self, features: Tensor, value: Tensor) -> Tensor:
        """(B, C + Cc, H, W), (B, C, H, W) -> (B, C, H, W)"""
        height, width = value.shape[-2:]
        size = enlarged_size(height, width, self.kernel_size)
        if size is not None:
            features, value = (F.interpolate(x, size, mode="bilinear", align_corners=False) for x in (features, value))
        x, context = features.split(self.dims, dim=1)
        query, key = self.query(x), self.key(F.adaptive_avg_pool2d(context, REGIONS))
        # a tracer must not see the cache
        if not is_captured() and choose_backend(self.backend, value) == "tiled":
            biases = self.biases(*value.shape[-2:])
            mixed = contmix_merged(query, key, value, self.proj_weight, *biases, self.scale)
        else:
            tables = (self.proj_weight, self.proj_bias, self.rpb1, self.rpb2)
            mixed = contmix_unmerged(query, key, value, *tables, self.scale, self.backend)
        return mixed if size is None else F.adaptive_avg_pool2d(mixed, (height, width))


class FoldedDynamicConvBlock(Frozen):
    """`DynamicConvBlock`, folded."""

    context_scale: Tensor | None
    prior_scale: Tensor | None
    prior_shift: Tensor | None
    residual_scale1: Tensor
    residual_scale2: Tensor

    def __init__(self, block: DynamicConvBlock) -> None:
        super().__init__()
        fusion_dw, fusion_bn, _, fusion_point, fusion_grn = _layers(
            block.fusion, nn.Conv2d, nn.BatchNorm2d, nn.GELU, nn.Conv2d, GRN
        )
        gate, gate_bn, _ = _layers(block.gate, nn.Conv2d, nn.BatchNorm2d, nn.SiLU)
        dyconv_proj, dyconv_bn = _layers(block.dyconv_proj, nn.Conv2d, nn.BatchNorm2d)
        proj_bn, proj = _layers(block.proj, nn.BatchNorm2d, nn.Conv2d)
        up, _, mlp_dwconv, mlp_grn, down = _layers(block.mlp, *MLP)
        self.dim = block.dim
        self.dwconv1 = folded_residual(block.dwconv1)
        self.norm1 = copy.deepcopy(block.norm1)
        self.fusion_dw = Folding(fusion_dw).then_bn(fusion_bn).done("gelu")
        self.fusion_point = Folding(fusion_point).done()
        self.fusion_grn = FoldedGRN(fusion_grn.gamma, fusion_grn.beta)
        self.gate = Folding(gate).then_bn(gate_bn).done("silu")
        self.lepe = folded_large(*_layers(block.lepe, DilatedReparam, nn.BatchNorm2d))
        self.contmix = FoldedContMix(block)
        self.dyconv_proj = Folding(dyconv_proj).then_bn(dyconv_bn).done()
        self.se = FoldedSE(block.se_layer)
        self.proj = Folding(proj).after_bn(proj_bn).shifted(block.ls1.bias).done()
        self.dwconv2 = folded_residual(block.dwconv2)
        self.norm2 = copy.deepcopy(block.norm2)
        self.mlp = FoldedMLP(up, mlp_dwconv, mlp_grn, down, block.ls2)
        mixes = block.mixes_prior
        self.hold(
            context_scale=_factor(block.x_scale) if mixes else None,
            prior_scale=_factor(block.h_scale) if mixes else None,
            prior_shift=(block.x_scale.bias + block.h_scale.bias).view(1, -1, 1, 1) if mixes else None,
            residual_scale1=_factor(block.ls1),
            residual_scale2=_factor(block.ls2),
        )

    def forward(self, joint: Tensor, prior: Tensor) -> Tensor:
        """(B, C + Cc, H, W), overwritten, and (B, Cc, H, W) -> (B, C + Cc, H, W)"""
        if is_symbolic(joint):
            return as_one_node(self, joint, prior)
        own = native_block.dynamic_conv_block(self, joint, prior)
        if own is not None:
            return own
        if self.context_scale is not None:
            assert self.prior_scale is not None
            assert self.prior_shift is not None
            context, mixed_in = joint[:, self.dim :], torch.addcmul(self.prior_shift, prior, self.prior_scale)
            if is_exporting():  # likewise
                joint = torch.cat([joint[:, : self.dim], context * self.context_scale + mixed_in], dim=1)
            else:
                context.mul_(self.context_scale).add_(mixed_in)
        x, features = _conv_norm(self.dwconv1, self.norm1, joint)
        value = self.fusion_grn(self.fusion_point(self._fusion_dw(features)))
        y = self.lepe(value)
        mixed = self.contmix(features, value)
        if fusions.why_not("gate", x, y, value, mixed) is None:
            mlp_triton.add_product_(y, mixed, *_of(self.dyconv_proj))
            y = block_triton.gate_(y, self.se(y), value, *_of(self.gate))
            x = mlp_triton.add_product_(x, y, *_of(self.proj), self.residual_scale1)
        else:
            self.dyconv_proj.add_to_(y, mixed)
            y = y.mul_(self.se(y)).mul_(self.gate(value))
            x = self.proj.add_to_(x.mul_(self.residual_scale1), y)
        x, y = _conv_norm(self.dwconv2, self.norm2, x)
        return self.mlp(x, y, self.residual_scale2)

    def _fusion_dw(self, features: Tensor) -> Tensor:
        if fusions.why_not("norm", features) is None:
            return mlp_triton.conv_gelu(features, *_of(self.fusion_dw))
        return self.fusion_dw(features)
