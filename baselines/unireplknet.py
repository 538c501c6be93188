"""UniRepLKNet (Ding et al., CVPR 2024, arXiv 2311.15599): large-kernel depthwise blocks, training and deploy form.

Shapes: B batch, C channels, H W map. Maps are (B, C, H, W), the MLP works on (B, H, W, C): no copy where the input is
channels_last. State dicts have the released names and shapes in both forms.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import torch
from timm.layers import DropPath, calculate_drop_path_rates
from timm.models import generate_default_cfgs, register_model
from timm.models._features import FeatureInfo, feature_take_indices
from torch import Tensor, nn

from baselines import common
from baselines.common import Classifier, build, default_cfg
from overlock.checkpoints.download import Release
from overlock.checkpoints.loading import StrictLoading
from overlock.layers import (
    Blocks,
    Branch,
    Checkpointing,
    DilatedReparam,
    Intermediates,
    LayerNorm2d,
    as_one_node,
    check_size,
    fuse_conv_bn,
    global_pooling,
    global_response,
    init_weights,
    is_symbolic,
    refuse_changed,
    response_norm,
)

BRANCHES: dict[int, tuple[Branch, ...]] = {
    17: ((5, 1), (9, 2), (3, 4), (3, 5), (3, 7)),
    15: ((5, 1), (7, 2), (3, 3), (3, 5), (3, 7)),
    13: ((5, 1), (7, 2), (3, 3), (3, 4), (3, 5)),
    11: ((5, 1), (5, 2), (3, 3), (3, 4), (3, 5)),
    9: ((5, 1), (5, 2), (3, 3), (3, 4)),
    7: ((5, 1), (3, 2), (3, 3)),
}
"""(kernel size, dilation) of the branches beside each large kernel; OverLoCK's table differs."""


def _variant(depths: tuple[int, int, int, int], width: int, stage3: tuple[int, ...]) -> dict[str, Any]:
    """`stage3` is the pattern of kernel sizes that repeats in the third stage; the other stages never differ."""
    patterns = ((3,), (13,), stage3, (13,))
    kernels = tuple(tuple(p[j % len(p)] for j in range(d)) for p, d in zip(patterns, depths, strict=True))
    return {"depths": depths, "widths": tuple(width * 2**i for i in range(4)), "kernel_sizes": kernels}


VARIANTS: dict[str, dict[str, Any]] = {
    "unireplknet_a": _variant((2, 2, 6, 2), 40, (13,)),
    "unireplknet_f": _variant((2, 2, 6, 2), 48, (13,)),
    "unireplknet_p": _variant((2, 2, 6, 2), 64, (13,)),
    "unireplknet_n": _variant((2, 2, 8, 2), 80, (13,)),
    "unireplknet_t": _variant((3, 3, 18, 3), 80, (13, 3)),
    "unireplknet_s": _variant((3, 3, 27, 3), 96, (13, 3, 3)),
    "unireplknet_b": _variant((3, 3, 27, 3), 128, (13, 3, 3)),
    "unireplknet_l": _variant((3, 3, 27, 3), 192, (13, 3, 3)),
    "unireplknet_xl": _variant((3, 3, 27, 3), 256, (13, 3, 3)),
}


class SE(nn.Module):
    """Squeeze-and-excitation gate: x * sigmoid(up(ReLU(down(gap(x))))), of width C // 4."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, channels // 4, 1)
        self.up = nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = x.mean((2, 3), keepdim=True)  # (B, C, 1, 1)
        return x * self.up(self.down(y).relu()).sigmoid()


class GRN(nn.Module):
    """Global response normalisation of a (B, H, W, C) map: (gamma * scale + 1) * x + beta; deploy form without beta."""

    def __init__(self, channels: int, deploy: bool = False) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, channels))
        self.beta = None if deploy else nn.Parameter(torch.zeros(1, 1, 1, channels))

    def forward(self, x: Tensor) -> Tensor:
        x, gamma = x.permute(0, 3, 1, 2), self.gamma.view(1, -1, 1, 1)
        if self.beta is None:
            y = x * (gamma * global_response(x) + 1)
        else:
            y = response_norm(x, gamma, self.beta.view(1, -1, 1, 1))
        return y.permute(0, 2, 3, 1)


class ToChannelsLast(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)


class ToChannelsFirst(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2)


class UniRepLKNetBlock(nn.Module):
    """x + gamma * MLP(SE(BN(depthwise KxK(x)))), with GRN inside the MLP (paper, section 3.1).

    Args:
        channels: C.
        kernel_size: K; 3 is a plain depthwise convolution, 7 and above a `DilatedReparam`.
        drop_path: stochastic depth's rate.
        deploy: build the merged form: no BN, no gamma, no GRN beta.

    Raises:
        ValueError: for a K that the branch table does not have.
    """

    def __init__(self, channels: int, kernel_size: int, drop_path: float = 0.0, deploy: bool = False) -> None:
        super().__init__()
        if kernel_size != 3 and kernel_size not in BRANCHES:
            raise ValueError(f"UniRepLKNet has no {kernel_size}x{kernel_size} block: give one of {[3, *BRANCHES]}")
        self.channels, self.kernel_size, self.deploy = channels, kernel_size, deploy
        self.gamma = None if deploy else nn.Parameter(torch.full((channels,), 1e-6))
        self.dwconv: nn.Conv2d | DilatedReparam
        if kernel_size == 3:
            self.dwconv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=deploy)
        else:
            self.dwconv = DilatedReparam(channels, kernel_size, BRANCHES[kernel_size], deploy)
        self.norm = nn.Identity() if deploy else nn.BatchNorm2d(channels)
        self.se = SE(channels)
        self.pwconv1 = nn.Sequential(ToChannelsLast(), nn.Linear(channels, 4 * channels))
        self.act = nn.Sequential(nn.GELU(), GRN(4 * channels, deploy))
        self.pwconv2 = nn.Sequential(nn.Linear(4 * channels, channels, bias=deploy), ToChannelsFirst())
        if not deploy:
            self.pwconv2.append(nn.BatchNorm2d(channels))
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if is_symbolic(x):
            return as_one_node(self, x)
        y = self.se(self.norm(self.dwconv(x)))
        y = self.pwconv2(self.act(self.pwconv1(y)))
        if self.gamma is not None:
            y = y * self.gamma.view(-1, 1, 1)
        return x + self.drop_path(y)

    @torch.no_grad()
    def deploy_state_dict(self) -> dict[str, Tensor]:
        """State dict of the deploy form with the same output in evaluation mode; new tensors, in the dtype at hand."""
        grn: Any = self.act[1]
        linear: Any = self.pwconv2[0]
        bn: Any = self.pwconv2[2]
        assert isinstance(self.norm, nn.BatchNorm2d)
        assert self.gamma is not None
        if isinstance(self.dwconv, DilatedReparam):
            conv, (weight, bias) = "dwconv.lk_origin", fuse_conv_bn(*self.dwconv.merged_kernel(), self.norm)
        else:
            conv, (weight, bias) = "dwconv", fuse_conv_bn(self.dwconv.weight, None, self.norm)
        # a linear layer is a 1x1 convolution, and GRN's beta a constant part of its input
        out_weight, out_bias = fuse_conv_bn(linear.weight[..., None, None], linear.weight @ grn.beta.flatten(), bn)
        kept = {k: v.clone() for k, v in self.state_dict().items() if k.startswith(("se.", "pwconv1.", "act.1.gamma"))}
        return kept | {
            f"{conv}.weight": weight,
            f"{conv}.bias": bias,
            "pwconv2.0.weight": out_weight.flatten(1) * self.gamma[:, None],
            "pwconv2.0.bias": out_bias * self.gamma,
        }

    def to_deploy(self) -> UniRepLKNetBlock:
        """A new block in deploy form with the same output in evaluation mode; this one is left as it is."""
        if self.deploy:
            return copy.deepcopy(self)
        with torch.device("meta"):
            block = UniRepLKNetBlock(self.channels, self.kernel_size, deploy=True)
        block.load_state_dict(self.deploy_state_dict(), strict=True, assign=True)
        return block.eval()

    def fuse(self) -> UniRepLKNetBlock:
        """timm's hook: what `reparameterize_model` puts in the block's place."""
        refuse_changed(self)
        return self.to_deploy()


Stages = TypeVar("Stages", bound="UniRepLKNetStages")


class UniRepLKNetStages(Checkpointing, StrictLoading):
    """What the classifier and the feature pyramid share: the way through a stage, and the step to the deploy form."""

    downsample_layers: nn.ModuleList
    stages: nn.ModuleList

    @property
    def deploy(self) -> bool:
        """Whether it is in deploy form, made by `deploy=True`, `to_deploy` or timm's `reparameterize_model`."""
        return any(block.deploy for stage in self.stages for block in stage.children())

    def run_stage(self, i: int, x: Tensor) -> Tensor:
        if i == 0:
            check_size(x)
        return self.stages[i](self.downsample_layers[i](x))

    def to_deploy(self: Stages) -> Stages:
        """A new model in deploy form, in evaluation mode, with the same outputs; this one is left as it is."""
        refuse_changed(self)
        stages: list[Any] = list(self.stages)
        merged = nn.ModuleList(nn.Sequential(*(block.to_deploy() for block in stage)) for stage in stages)
        model = copy.deepcopy(self, memo={id(self.stages): merged})  # a copy of everything else
        return model.eval()

    def train(self: Stages, mode: bool = True) -> Stages:
        if mode and self.deploy:
            raise ValueError("the deploy form of UniRepLKNet is for inference only: train the training form instead")
        return super().train(mode)


class UniRepLKNet(UniRepLKNetStages, Classifier, Intermediates):
    """UniRepLKNet classifier.

    Args:
        depths, widths: blocks and channels of the four stages.
        kernel_sizes: depthwise kernel size of each block of each stage.
        in_chans, num_classes, drop_rate, drop_path_rate: timm's; `num_classes` 0 gives the pooled features.
        global_pool: timm's pooling type; "" leaves the map unpooled (with `num_classes` 0).
        deploy: build the merged form, for inference only.

    Input (B, in_chans, H, W), H and W 32 or more; output (B, num_classes).
    """

    def __init__(
        self,
        depths: Sequence[int],
        widths: Sequence[int],
        kernel_sizes: Sequence[Sequence[int]],
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        deploy: bool = False,
    ) -> None:
        super().__init__()
        self.in_chans, self.num_classes = in_chans, num_classes
        self.num_features = self.head_hidden_size = widths[-1]
        self.feature_info = [
            {"num_chs": c, "reduction": 4 * 2**i, "module": f"stages.{i}"} for i, c in enumerate(widths)
        ]
        half = widths[0] // 2
        stem = nn.Sequential(
            nn.Conv2d(in_chans, half, 3, stride=2, padding=1),  # H/2
            LayerNorm2d(half),
            nn.GELU(),
            nn.Conv2d(half, widths[0], 3, stride=2, padding=1),  # H/4
            LayerNorm2d(widths[0]),
        )
        steps = [
            nn.Sequential(nn.Conv2d(c_in, c_out, 3, stride=2, padding=1), LayerNorm2d(c_out))
            for c_in, c_out in pairwise(widths)
        ]
        self.downsample_layers = nn.ModuleList([stem, *steps])
        rates: Any = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        self.stages = nn.ModuleList(
            Blocks(*(UniRepLKNetBlock(c, k, rate, deploy) for k, rate in zip(ks, stage_rates, strict=True)))
            for c, ks, stage_rates in zip(widths, kernel_sizes, rates, strict=True)
        )
        self.stage_modules = [(f"downsample_layers.{i}", f"stages.{i}") for i in range(len(widths))]
        self.global_pool = global_pooling(global_pool)
        self.norm: nn.Module = LayerNorm2d(self.num_features)
        self.head_drop = nn.Dropout(drop_rate)
        self.head = self.last_layer()
        self.apply(init_weights)
        if deploy:
            self.eval()

    def last_layer(self) -> nn.Module:
        if self.global_pool.feat_mult() != 1:
            raise ValueError(
                f"global_pool={self.global_pool.pool_type!r}: the norm after the pooling is of its channels"
            )
        return super().last_layer()

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> (B, C, H/32, W/32), un-normalised."""
        for i in range(len(self.stages)):
            x = self.run_stage(i, x)
        return x

    def stage_maps(self, x: Tensor) -> Iterator[Tensor]:
        """Un-normalised: the pyramid's norms are its own."""
        for i in range(len(self.stages)):
            x = self.run_stage(i, x)
            yield x

    def drop_head(self) -> None:
        self.norm = nn.Identity()
        super().drop_head()

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, C, H/32, W/32) -> (B, num_classes), or (B, C) with `pre_logits`."""
        x = self.norm(self.global_pool(x))
        if not self.global_pool.is_identity():
            x = x.flatten(1)
        x = self.head_drop(x)
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        return {
            "stem": r"^downsample_layers\.0",
            "blocks": r"^(?:downsample_layers|stages)\.(\d+)"
            if coarse
            else [(r"^downsample_layers\.(\d+)", (0,)), (r"^stages\.(\d+)\.(\d+)", None)],
        }


class UniRepLKNetPyramid(UniRepLKNetStages):
    """`features_only` form: each stage's output through its own `norm<i>`, the un-normalised map going on.

    The names are those of released detection and segmentation backbones. Output: one (B, C_i, H/s_i, W/s_i) for each
    of `out_indices`, strides s = 4, 8, 16, 32, finest first. Stages after the last one asked for are dropped.
    """

    added = tuple(f"norm{i}." for i in range(4))
    """What it has beyond the classifier."""

    def __init__(self, model: UniRepLKNet, out_indices: int | Sequence[int]) -> None:
        super().__init__()
        taken, last = feature_take_indices(
            len(model.stages), out_indices if isinstance(out_indices, int) else list(out_indices)
        )
        self.out_indices = tuple(sorted(set(taken)))
        self.feature_info = FeatureInfo(model.feature_info, self.out_indices)
        self.downsample_layers = model.downsample_layers[: last + 1]
        self.stages = model.stages[: last + 1]
        for i, channels in zip(self.out_indices, self.feature_info.channels(), strict=True):
            self.add_module(f"norm{i}", LayerNorm2d(channels))
        if self.deploy:
            self.eval()

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for i in range(len(self.stages)):
            x = self.run_stage(i, x)
            if i in self.out_indices:
                maps.append(self.get_submodule(f"norm{i}")(x))
        return maps


def release(name: str) -> Release:
    """The file of ImageNet-1K at 224; of B, L and XL, at 384 after ImageNet-22K, since no other is released."""
    pattern = re.compile(rf"/{name}_(in1k_224|in22k_to_in1k_384)_acc")
    return common.release(name, lambda row: pattern.search(row["value"]) is not None)


default_cfgs = generate_default_cfgs(
    {name: default_cfg(0.875, "downsample_layers.0.0", release(name)) for name in VARIANTS}
)


def _entrypoint(name: str) -> Callable[..., nn.Module]:
    def entrypoint(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        features = {"out_indices": (0, 1, 2, 3), "feature_cls": UniRepLKNetPyramid}
        return build(UniRepLKNet, name, release, pretrained, features, **(VARIANTS[name] | kwargs))

    entrypoint.__name__ = entrypoint.__qualname__ = name
    return entrypoint


for _name in VARIANTS:
    globals()[_name] = register_model(_entrypoint(_name))
