"""OverLoCK's blocks as they run at inference: folded, in place where nothing else reads, fused where the device can.

`overlock.inference.fold` makes them from the training form. Every tensor here is a buffer: there is nothing to train.

Shapes: B batch, C channels, Cc channels of the context, H W map.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overlock.contmix import choose_backend, contmix_merged, enlarged_size, merge_biases
from overlock.contmix import contmix as contmix_unmerged
from overlock.inference.convolution import conv, conv_add_, conv_of_vector
from overlock.inference.grn import normalise_, why_not_in_place
from overlock.layers import channel_dot
from overlock.tracing import is_plain

HIDDEN_BYTES = 8 << 20  # of an MLP's hidden map at a time: larger ones are mapped afresh, page by page, at every call
CACHED_SIZES = 4
CACHED_BYTES = 8 << 20  # merged biases of larger maps are made again: 12 blocks would hold hundreds of megabytes


class Frozen(nn.Module):
    """A module of buffers."""

    def hold(self, **tensors: Tensor | None) -> None:
        for name, tensor in tensors.items():
            self.register_buffer(name, None if tensor is None else tensor.detach().clone())


class FoldedConv(Frozen):
    """Convolution with everything linear beside it folded in, then an activation."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, activation: str | None = None, stride: int = 1) -> None:
        super().__init__()
        self.hold(weight=weight, bias=bias)
        self.activation, self.stride = activation, stride

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2:] == self.weight.shape[2:] == (1, 1) and self.activation is None:
            return conv_of_vector(x, self.weight, self.bias)
        return conv(x, self.weight, self.bias, self.activation, self.stride)

    def add_to_(self, out: Tensor, x: Tensor) -> Tensor:
        return conv_add_(out, x, self.weight, self.bias)


class FoldedSE(nn.Module):
    """Gate (B, C, 1, 1) of squeeze-and-excitation."""

    def __init__(self, down: FoldedConv, up: FoldedConv) -> None:
        super().__init__()
        self.down, self.up = down, up

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.gelu(conv_of_vector(x.mean((2, 3), keepdim=True), self.down.weight, self.down.bias))
        return conv_of_vector(hidden, self.up.weight, self.up.bias).sigmoid_()


def _image_chunks(x: Tensor, channels: int, chunk_bytes: int) -> list[slice]:
    """The images of (B, C, H, W) a few at a time on a CPU, so that a map of `channels` of them fits `chunk_bytes`."""
    batch = x.shape[0]
    if x.device.type != "cpu" or is_plain() or torch.compiler.is_compiling():  # traced: for any batch
        return [slice(None)]
    image_bytes = channels * x.shape[2] * x.shape[3] * x.element_size()
    count = -(-batch // max(1, chunk_bytes // image_bytes))  # chunks, then made even
    step = -(-batch // count)
    return [slice(first, first + step) for first in range(0, batch, step)]


class FoldedGRN(Frozen):
    """GRN without its beta, which is folded into the convolution after it (or added by `shift`)."""

    gamma: Tensor
    beta: Tensor | None

    def __init__(self, gamma: Tensor, beta: Tensor | None = None) -> None:
        super().__init__()
        self.hold(gamma=gamma, beta=beta)

    def scale(self, x: Tensor) -> Tensor:
        norm = channel_dot(x, x).sqrt_()
        return (norm * self.gamma).div_(norm.mean(dim=1, keepdim=True) + 1e-6).add_(1)

    def forward(self, x: Tensor, dwconv: FoldedConv | None = None) -> Tensor:
        """In place, after a 3x3 depthwise convolution where there is one."""
        if why_not_in_place(x) is None:
            conv = None if dwconv is None else (dwconv.weight, dwconv.bias)
            return normalise_(x, self.gamma, self.beta, conv)
        x = x if dwconv is None else dwconv(x)
        x = x.mul_(self.scale(x))
        return x if self.beta is None else x.add_(self.beta)


class FoldedMLP(nn.Module):
    """residual += down(GRN(dw3x3(GELU(up(x))))), in place."""

    def __init__(self, up: FoldedConv, dwconv: FoldedConv, grn: FoldedGRN, down: FoldedConv) -> None:
        super().__init__()
        self.up, self.dwconv, self.grn, self.down = up, dwconv, grn, down

    def forward(self, residual: Tensor, x: Tensor) -> Tensor:
        for images in _image_chunks(x, self.up.weight.shape[0], HIDDEN_BYTES):
            self.down.add_to_(residual[images], self.grn(self.up(x[images]), self.dwconv))
        return residual


class FoldedRepConvBlock(Frozen):
    """`RepConvBlock`, folded."""

    residual_scale: Tensor | None

    def __init__(
        self,
        dwconv: FoldedConv,
        norm: nn.Module,
        large: FoldedConv,
        se: FoldedSE,
        mlp: FoldedMLP,
        residual_scale: Tensor | None,
    ) -> None:
        super().__init__()
        self.dwconv, self.norm, self.large, self.se, self.mlp = dwconv, norm, large, se, mlp
        self.hold(residual_scale=residual_scale)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dwconv(x)
        y = self.large(self.norm(x))
        y = y.mul_(self.se(y))
        if self.residual_scale is not None:
            x = x.mul_(self.residual_scale)
        return self.mlp(x, y)


class FoldedContMix(Frozen):
    """Query, key and ContMix itself, biases merged once for each size of map."""

    proj_weight: Tensor
    proj_bias: Tensor
    rpb1: Tensor
    rpb2: Tensor

    def __init__(
        self,
        query: FoldedConv,
        key: FoldedConv,
        proj_weight: Tensor,
        proj_bias: Tensor,
        rpb1: Tensor,
        rpb2: Tensor,
        scale: float,
        dims: tuple[int, int],
        regions: int,
    ) -> None:
        super().__init__()
        self.query, self.key, self.scale, self.dims, self.regions = query, key, scale, dims, regions
        self.hold(proj_weight=proj_weight, proj_bias=proj_bias, rpb1=rpb1, rpb2=rpb2)
        self.kernel_size = (rpb2.shape[-1] + 1) // 2
        self.backend = "auto"
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
        query, key = self.query(x), self.key(F.adaptive_avg_pool2d(context, self.regions))
        traced = is_plain() or torch.compiler.is_compiling()  # a tracer must not see the cache
        if not traced and choose_backend(self.backend, query, key, value) == "tiled":
            biases = self.biases(*value.shape[-2:])
            mixed = contmix_merged(query, key, value, self.proj_weight, *biases, self.scale)
        else:
            tables = (self.proj_weight, self.proj_bias, self.rpb1, self.rpb2)
            mixed = contmix_unmerged(query, key, value, *tables, self.scale, self.backend)
        return mixed if size is None else F.adaptive_avg_pool2d(mixed, (height, width))


class FoldedDynamicConvBlock(Frozen):
    """`DynamicConvBlock`, folded."""

    dwconv1: FoldedConv
    norm1: nn.LayerNorm
    fusion_dw: FoldedConv
    fusion_point: FoldedConv
    fusion_grn: FoldedGRN
    gate: FoldedConv
    lepe: FoldedConv
    contmix: FoldedContMix
    dyconv_proj: FoldedConv
    se: FoldedSE
    proj: FoldedConv
    dwconv2: FoldedConv
    norm2: nn.LayerNorm
    mlp: FoldedMLP
    context_scale: Tensor | None
    prior_scale: Tensor | None
    prior_shift: Tensor | None
    residual_scale1: Tensor
    residual_scale2: Tensor

    def __init__(self, parts: dict[str, nn.Module], tensors: dict[str, Tensor | None], dim: int) -> None:
        super().__init__()
        for name, module in parts.items():
            self.add_module(name, module)
        self.hold(**tensors)
        self.dim = dim

    def forward(self, joint: Tensor, prior: Tensor) -> Tensor:
        """(B, C + Cc, H, W), overwritten, and (B, Cc, H, W) -> (B, C + Cc, H, W)"""
        if self.context_scale is not None:
            assert self.prior_scale is not None
            assert self.prior_shift is not None
            context = joint[:, self.dim :]
            context.mul_(self.context_scale).add_(torch.addcmul(self.prior_shift, prior, self.prior_scale))
        x = self.dwconv1(joint)
        features = self.norm1(x)
        value = self.fusion_grn(self.fusion_point(self.fusion_dw(features)))
        y = self.lepe(value)
        self.dyconv_proj.add_to_(y, self.contmix(features, value))
        y = y.mul_(self.se(y)).mul_(self.gate(value))
        x = self.proj.add_to_(x.mul_(self.residual_scale1), y)
        x = self.dwconv2(x)
        y = self.norm2(x)
        return self.mlp(x.mul_(self.residual_scale2), y)
