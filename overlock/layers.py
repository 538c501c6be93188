"""Layers that OverLoCK is built of. Some serve the baselines too.

Shapes: B batch, C channels, H W map. All maps are (B, C, H, W); any memory layout works, channels_last is the fast one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from timm.layers import SelectAdaptivePool2d
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from overlock.depthwise import branches as normed_branches
from overlock.depthwise.parallel import dilate_kernel, parallel_convs
from overlock.recomputation import recomputed
from overlock.tracing import as_one_node, eager_autograd, is_captured, is_symbolic, under_autocast, why_not_read

DOT_BYTES = 4 << 20  # of products made at a time for a sum: what fits the caches

Branch = tuple[int, int]  # (kernel size, dilation) of one parallel branch

BRANCHES: dict[int, tuple[Branch, ...]] = {
    19: ((5, 1), (7, 1), (9, 1), (9, 2), (3, 4), (3, 5), (3, 7)),
    17: ((5, 1), (7, 1), (9, 2), (3, 4), (3, 5), (3, 7)),
    15: ((5, 1), (7, 1), (7, 2), (3, 3), (3, 5), (3, 7)),
    13: ((5, 1), (7, 1), (7, 2), (3, 3), (3, 4), (3, 5)),
    11: ((5, 1), (7, 1), (5, 2), (3, 3), (3, 4), (3, 5)),
    9: ((5, 1), (7, 1), (5, 2), (3, 3), (3, 4)),
    7: ((5, 1), (3, 1), (3, 2), (3, 3)),
    5: ((3, 1), (3, 2)),
}
"""OverLoCK's own branch table, by large-kernel size (UniRepLKNet's differs)."""


SMALLEST = 32  # pixels a side: what is divided by all strides


def check_size(x: Tensor) -> None:
    """Raises ValueError for images (B, C, H, W) that are smaller than the strides of a network together."""
    if not (torch.jit.is_tracing() or is_symbolic(x)) and min(x.shape[-2:]) < SMALLEST:
        raise ValueError(f"images of {x.shape[-2]}x{x.shape[-1]} pixels: the least is {SMALLEST}x{SMALLEST}")


class Unscriptable(nn.Module):
    """A network that `torch.jit.script` cannot compile, and that says so."""

    def __prepare_scriptable__(self) -> NoReturn:
        """What `torch.jit.script` calls first."""
        raise ValueError(
            f"torch.jit.script cannot compile {type(self).__name__}: give torch.compile(model), torch.export.export or "
            "torch.jit.trace(model.eval(), images) instead, and overlock.export_onnx for ONNX"
        )


class Checkpointing(Unscriptable):
    """A network whose blocks `run` can keep their inputs alone, and compute the rest again for the backward."""

    grad_checkpointing = False

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        for module in self.modules():
            if isinstance(module, Checkpointing):
                module.grad_checkpointing = enable

    def run(self, block: nn.Module, *inputs: Tensor) -> Any:
        if not self.grad_checkpointing or not torch.is_grad_enabled() or is_symbolic(inputs[0]):
            return block(*inputs)
        return recomputed(block, *inputs)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """timm's: the parameters that weight decay would pull towards a value that means nothing.

        Those are scales, shifts and tables of biases, of whatever shape: all that is no weight of a convolution or a
        linear layer. The released weights were trained without this list (`bench.train_imagenet` can do both).
        """
        return {
            f"{prefix}.{name}" if prefix else name
            for prefix, module in self.named_modules()
            if not isinstance(module, nn.Conv2d | nn.Linear)
            for name, _ in module.named_parameters(recurse=False)
        }


class Blocks(nn.Sequential, Checkpointing):
    """Blocks of one stage."""

    def forward(self, x: Tensor) -> Tensor:
        for block in self:
            x = self.run(block, x)
        return x


class Intermediates(nn.Module):
    """timm's interface to the map of each stage, as it goes on into the next one: index 0 is of stride 4, 3 of 32."""

    feature_info: list[dict[str, Any]]
    stage_modules: list[tuple[str, ...]]
    """Of each stage, the modules that it adds to the one before it."""

    def stage_maps(self, x: Tensor) -> Iterator[Tensor]:
        """The stages' maps, each computed when it is asked for."""
        raise NotImplementedError

    def drop_head(self) -> None:
        """Remove what follows the last map, which has `num_features` channels."""
        raise NotImplementedError

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """(B, in_chans, H, W) -> the last map, as `forward_features` gives it, and the maps (B, C, H/s, W/s) asked for.

        Args:
            indices: of the maps, negative ones from the end; a number n: the last n; None: all.
            norm: timm's; no norm follows the last map of these networks, so it changes nothing.
            stop_early: compute no stage after the last one asked for, whose map is then the last map.
            output_fmt: `NCHW`, the only one.
            intermediates_only: return the list alone.

        Raises:
            ValueError: for another format.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt={output_fmt!r}: these maps are NCHW")
        taken, last = feature_take_indices(len(self.stage_modules), indices)  # type: ignore[arg-type]
        maps, end = [], x
        for i, end in enumerate(islice(self.stage_maps(x), last + 1 if stop_early else len(self.stage_modules))):
            if i in taken:
                maps.append(end)
        return maps if intermediates_only else (end, maps)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the stages after the last of the maps `indices`, and the head if any go or `prune_head` says so.

        `prune_norm` is timm's, and changes nothing. Returns the indices, none negative.
        """
        taken, last = feature_take_indices(len(self.stage_modules), indices)  # type: ignore[arg-type]
        dropped, self.stage_modules = self.stage_modules[last + 1 :], self.stage_modules[: last + 1]
        for name in (name for names in dropped for name in names):
            parent, _, leaf = name.rpartition(".")
            delattr(self.get_submodule(parent), leaf)
        if dropped or prune_head:
            self.num_features = self.head_hidden_size = self.feature_info[last]["num_chs"]
            self.drop_head()
        return taken


def refuse_changed(model: nn.Module) -> None:
    """Raises ValueError, naming the layer, where folding `model` would lose what a layer does when it is called."""
    for name, module in model.named_modules():
        reason = why_not_read(module) if name else None
        kept = name.startswith("head") and not isinstance(module, nn.Conv2d)  # as it is
        if reason is not None and not kept and not name.startswith("aux_head"):
            raise ValueError(
                f"{name} {reason}, which folding would lose: merge adapters, remove parametrisations (with their values"
                " kept), pruning masks and hooks first"
            )
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.running_mean is None or not module.affine):
            raise ValueError(f"{name} keeps no statistics, or has no weight, and cannot be folded")


def init_weights(module: nn.Module) -> None:
    """First weights: truncated normal of deviation 0.02 for convolution and linear, biases 0; norms and scales keep
    theirs."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


POOLINGS = ("avg", "max", "avgmax", "catavgmax", "fast", "fastavg", "fastmax", "fastavgmax", "fastcatavgmax", "")


def global_pooling(kind: str) -> SelectAdaptivePool2d:
    """timm's pooling (B, C, H, W) -> (B, C, 1, 1), or (B, 2C, 1, 1) for those that join two; "" leaves the map.

    Raises:
        ValueError: for one that timm does not have.
    """
    if kind not in POOLINGS:
        raise ValueError(f"global_pool={kind!r}: give one of {', '.join(map(repr, POOLINGS))}")
    return SelectAdaptivePool2d(pool_type=kind)


def bn_affine(bn: nn.BatchNorm2d, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Scale and shift (C,) of each channel that equal `bn` in evaluation mode, computed in `dtype`."""
    assert bn.running_mean is not None
    assert bn.running_var is not None
    weight, bias, mean, variance = (x.to(dtype) for x in (bn.weight, bn.bias, bn.running_mean, bn.running_var))
    scale = weight / (variance + bn.eps).sqrt()
    return scale, bias - mean * scale


def fuse_conv_bn(weight: Tensor, bias: Tensor | None, bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of the one convolution that equals a convolution and then `bn` in evaluation mode."""
    scale, shift = bn_affine(bn, weight.dtype)
    return weight * scale.view(-1, 1, 1, 1), shift if bias is None else shift + bias * scale


class ResDWConv(nn.Conv2d):
    """x + depthwise kxk(x), with bias: a positional encoding and a local mix in one (paper, section 3.3)."""

    def __init__(self, channels: int, kernel_size: int = 3) -> None:
        super().__init__(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype.itemsize < 4 or under_autocast(x.device.type):
            return x + super().forward(x)  # 1 + weight would lose the weight's low bits
        identity = F.pad(self.weight.new_ones(1, 1, 1, 1), [self.kernel_size[0] // 2] * 4)
        return self._conv_forward(x, self.weight + identity, self.bias)


class DilatedReparam(nn.Module):
    """Large depthwise convolution with parallel dilated small ones, each with its BN (UniRepLKNet, section 3.2).

    Args:
        channels: C.
        kernel_size: K, odd; the map keeps its size.
        branches: (kernel size, dilation) of each parallel branch; OverLoCK's table where None.
        deploy: build the merged form, one KxK depthwise convolution with bias.

    Raises:
        ValueError: for a K that the branch table does not have.
    """

    def __init__(
        self, channels: int, kernel_size: int, branches: Sequence[Branch] | None = None, deploy: bool = False
    ) -> None:
        super().__init__()
        if branches is None:
            if kernel_size not in BRANCHES:
                raise ValueError(f"no branch table for a {kernel_size}x{kernel_size} kernel: give one of {[*BRANCHES]}")
            branches = BRANCHES[kernel_size]
        self.kernel_size = kernel_size
        self.branches = tuple(branches)
        self.lk_origin = nn.Conv2d(
            channels, channels, kernel_size, padding=kernel_size // 2, groups=channels, bias=deploy
        )
        if deploy:
            self.branches = ()
            return
        self.origin_bn = nn.BatchNorm2d(channels)
        for k, r in self.branches:
            conv = nn.Conv2d(channels, channels, k, padding=r * (k - 1) // 2, dilation=r, groups=channels, bias=False)
            setattr(self, f"dil_conv_k{k}_{r}", conv)
            setattr(self, f"dil_bn_k{k}_{r}", nn.BatchNorm2d(channels))

    @property
    def merged(self) -> bool:
        return not hasattr(self, "origin_bn")

    def forward(self, x: Tensor) -> Tensor:
        if is_symbolic(x):
            return as_one_node(self, x)
        if self.merged:
            return self.lk_origin(x)
        convs = [self.lk_origin, *(getattr(self, f"dil_conv_k{k}_{r}") for k, r in self.branches)]
        norms = [self.origin_bn, *(getattr(self, f"dil_bn_k{k}_{r}") for k, r in self.branches)]
        if normed_branches.why_not(x, convs, norms) is None:
            return normed_branches.normed_sum(x, convs, norms)
        first, *others = (norm(y) for norm, y in zip(norms, parallel_convs(x, convs), strict=True))
        for y in others:
            first = first + y
        return first

    def merged_kernel(self) -> tuple[Tensor, Tensor]:
        """(weight (C, 1, K, K), bias (C)) of the one convolution with the same output in evaluation mode."""
        if self.merged:
            assert self.lk_origin.bias is not None
            return self.lk_origin.weight, self.lk_origin.bias
        weight, bias = fuse_conv_bn(self.lk_origin.weight, None, self.origin_bn)
        for k, r in self.branches:
            conv, bn = getattr(self, f"dil_conv_k{k}_{r}"), getattr(self, f"dil_bn_k{k}_{r}")
            branch_weight, branch_bias = fuse_conv_bn(conv.weight, None, bn)
            weight = weight + dilate_kernel(branch_weight, r, self.kernel_size)
            bias = bias + branch_bias
        return weight, bias


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over C of a (B, C, H, W) map; no copy where the map is channels_last."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__(channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        y = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return y.permute(0, 3, 1, 2)


class SE(nn.Module):
    """Squeeze-and-excitation gate: x * sigmoid(1x1(GELU(1x1(gap(x)))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(16, channels // 8)
        self.proj = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, inner, 1), nn.GELU(), nn.Conv2d(inner, channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.proj(x).sigmoid()


def global_response(x: Tensor) -> Tensor:
    """GRN's scale (B, C, 1, 1): each channel's L2 norm over H, W, over the mean of these (ConvNeXt V2, eq. 1-2).

    The norm is the root of a sum of squares: `vector_norm` takes ten times as long on a channels_last map.
    """
    squares = channel_dot(x, x)
    zero = squares == 0  # keeps the root's gradient finite there
    norm = (squares + zero).sqrt() * ~zero if torch.is_grad_enabled() else squares.sqrt()
    return (norm / (norm.mean(dim=1, keepdim=True) + 1e-6)).to(x.dtype)


def channel_dot(x: Tensor, y: Tensor) -> Tensor:
    """sum over H and W of x * y: (B, C, H, W) twice -> (B, C, 1, 1). On a CPU a few images at a time."""
    if x.dtype == torch.float16:  # a sum of squares soon passes its largest value, 65504: the sum is given in float32
        x, y = x.float(), y.float()
    if x.device.type != "cpu" or is_captured():
        return (x * y).sum((2, 3), keepdim=True)
    images = max(1, DOT_BYTES // max(1, x[:1].numel() * x.element_size()))
    if images >= x.shape[0]:
        return (x * y).sum((2, 3), keepdim=True)
    parts = zip(x.split(images), y.split(images), strict=True)
    return torch.cat([(a * b).sum((2, 3), keepdim=True) for a, b in parts])


def response_norm(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """Global response normalisation of x (B, C, H, W): (gamma * scale + 1) * x + beta, both (1, C, 1, 1)."""
    if eager_autograd():
        return _GRN.apply(x, gamma, beta)
    return torch.addcmul(beta, x, gamma * global_response(x) + 1)


class GRN(nn.Module):
    """Global response normalisation; gamma and beta start at 0."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return response_norm(x, self.gamma, self.beta)


class _GRN(torch.autograd.Function):
    """GRN with a backward of three passes over the map, where the operators' own take nine."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        norm = channel_dot(x, x).sqrt_()
        mean = norm.mean(dim=1, keepdim=True) + 1e-6
        ctx.save_for_backward(x, gamma, norm, mean)
        return torch.addcmul(beta, x, (gamma * (norm / mean) + 1).to(x.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, gamma, norm, mean = ctx.saved_tensors
        scale = norm / mean
        d_factor = channel_dot(grad, x)  # of gamma * scale + 1
        d_scale = d_factor * gamma
        d_norm = (d_scale - (d_scale * scale).mean(dim=1, keepdim=True)) / mean
        factor, along = (gamma * scale + 1).to(x.dtype), torch.where(norm == 0, 0, d_norm / norm).to(x.dtype)
        grad_x = (grad * factor).addcmul_(x, along)
        d_gamma = (d_factor * scale).sum(0, keepdim=True).to(gamma.dtype)
        return grad_x, d_gamma, grad.sum((0, 2, 3), keepdim=True)


class LayerScale(nn.Module):
    """Per-channel scale and shift of a (B, C, H, W) map; the weight's shape (C, 1, 1, 1) is the released one."""

    def __init__(self, channels: int, init: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels, 1, 1, 1), init))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.bias.view(-1, 1, 1), x, self.weight.squeeze(-1))
