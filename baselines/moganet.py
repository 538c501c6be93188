"""MogaNet (Li et al., ICLR 2024, arXiv 2211.03295): multi-order gated aggregation.

Shapes: B batch, C channels, H W map. All maps are (B, C, H, W), in any memory layout. State dicts have the released
names and shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath, calculate_drop_path_rates
from timm.models import FeatureListNet, generate_default_cfgs, register_model
from torch import Tensor, nn

from baselines import common
from baselines.common import Classifier, build, default_cfg
from overlock.checkpoints.download import Release
from overlock.checkpoints.loading import StrictLoading
from overlock.layers import Blocks, Checkpointing, Intermediates, check_size, global_pooling, init_weights

VARIANTS: dict[str, dict[str, Any]] = {
    "moganet_xt": {"widths": (32, 64, 96, 192), "depths": (3, 3, 10, 2)},
    "moganet_t": {"widths": (32, 64, 128, 256), "depths": (3, 3, 12, 2)},
    "moganet_s": {"widths": (64, 128, 320, 512), "depths": (2, 3, 12, 2)},
    "moganet_b": {"widths": (64, 160, 320, 512), "depths": (4, 6, 22, 3)},
    "moganet_l": {"widths": (64, 160, 320, 640), "depths": (4, 6, 44, 4)},
    "moganet_xl": {"widths": (96, 192, 480, 960), "depths": (6, 6, 44, 4)},
}
MLP_RATIOS = (8, 8, 4, 4)  # of the four stages, in every variant


class ElementScale(nn.Module):
    """`x + scale * (x - reference)`: raises what differs from a reference (paper, section 4.2 and 4.3)."""

    def __init__(self, channels: int, init: float = 1e-5) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((1, channels, 1, 1), init))

    def forward(self, x: Tensor, reference: Tensor) -> Tensor:
        return torch.addcmul(x, self.scale, x - reference)


class MultiOrderDWConv(nn.Module):
    """Depthwise 5x5, then 5x5 dilation 2 on 3/8 and 7x7 dilation 3 on 4/8 of the channels, then 1x1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.split = (channels // 8, channels * 3 // 8, channels // 2)
        assert sum(self.split) == channels, f"{channels} channels do not split into 1/8, 3/8 and 4/8"
        _, mid, high = self.split
        self.DW_conv0 = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.DW_conv1 = nn.Conv2d(mid, mid, 5, padding=4, dilation=2, groups=mid)
        self.DW_conv2 = nn.Conv2d(high, high, 7, padding=9, dilation=3, groups=high)
        self.PW_conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        low, mid, high = self.DW_conv0(x).split(self.split, dim=1)
        return self.PW_conv(torch.cat([low, self.DW_conv1(mid), self.DW_conv2(high)], dim=1))


class MultiOrderGatedAggregation(nn.Module):
    """Spatial mixing: a SiLU gate times multi-order context, plus its own input (paper, section 4.2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj_1 = nn.Conv2d(channels, channels, 1)
        self.gate = nn.Conv2d(channels, channels, 1)
        self.value = MultiOrderDWConv(channels)
        self.proj_2 = nn.Conv2d(channels, channels, 1)
        self.sigma = ElementScale(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.proj_1(x)
        y = F.silu(self.sigma(y, y.mean((2, 3), keepdim=True)))
        return x + self.proj_2(F.silu(self.gate(y)) * F.silu(self.value(y)))


class ChannelAggregation(nn.Module):
    """Channel mixing: MLP with a depthwise 3x3 and one shared map that channels are raised against (section 4.3)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Conv2d(hidden, channels, 1)
        self.decompose = nn.Conv2d(hidden, 1, 1)
        self.sigma = ElementScale(hidden)

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.dwconv(self.fc1(x)))
        y = self.sigma(y, F.gelu(self.decompose(y)))  # the reference is (B, 1, H, W)
        return self.fc2(y)


class MogaNetBlock(nn.Module):
    """x + s1 * aggregation(BN(x)), then x + s2 * MLP(BN(x))."""

    def __init__(self, channels: int, mlp_ratio: int, drop_path: float = 0.0, init: float = 1e-5) -> None:
        super().__init__()
        self.layer_scale_1 = nn.Parameter(torch.full((1, channels, 1, 1), init))
        self.layer_scale_2 = nn.Parameter(torch.full((1, channels, 1, 1), init))
        self.norm1 = nn.BatchNorm2d(channels)
        self.attn = MultiOrderGatedAggregation(channels)
        self.norm2 = nn.BatchNorm2d(channels)
        self.mlp = ChannelAggregation(channels, channels * mlp_ratio)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = torch.addcmul(x, self.layer_scale_1, self.drop_path(self.attn(self.norm1(x))))
        return torch.addcmul(x, self.layer_scale_2, self.drop_path(self.mlp(self.norm2(x))))


class Stem(nn.Module):
    """Two strided 3x3 convolutions, each with BN, GELU between them: H -> H/4."""

    def __init__(self, in_chans: int, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.projection = nn.Sequential(
            nn.Conv2d(in_chans, half, 3, stride=2, padding=1),
            nn.BatchNorm2d(half),
            nn.GELU(),
            nn.Conv2d(half, channels, 3, stride=2, padding=1),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        check_size(x)
        return self.projection(x)


class Downsample(nn.Module):
    """Strided 3x3 convolution and BN: H -> H/2."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(c_in, c_out, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.projection(x))


class MogaNet(Classifier, Intermediates, Checkpointing, StrictLoading):
    """MogaNet classifier: four times `patch_embed<i>`, `blocks<i>`, `norm<i>`, i = 1..4, then mean and `head`.

    Args:
        depths, widths: blocks and channels of the four stages.
        in_chans, num_classes, drop_rate, drop_path_rate: timm's; `num_classes` 0 gives the pooled features.
        global_pool: timm's pooling type; "" leaves the map unpooled (with `num_classes` 0).

    Input (B, in_chans, H, W), H and W 32 or more; output (B, num_classes). The modules stand in the order of their use,
    so timm's own feature extraction serves `features_only`, with the released names.
    """

    def __init__(
        self,
        depths: Sequence[int],
        widths: Sequence[int],
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.in_chans, self.num_classes = in_chans, num_classes
        self.num_features = self.head_hidden_size = widths[-1]
        self.feature_info = [
            {"num_chs": c, "reduction": 4 * 2**i, "module": f"norm{i + 1}"} for i, c in enumerate(widths)
        ]
        self.stage_modules = [(f"patch_embed{i}", f"blocks{i}", f"norm{i}") for i in range(1, len(depths) + 1)]
        rates: Any = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        for i, (channels, ratio) in enumerate(zip(widths, MLP_RATIOS, strict=True)):
            step = Stem(in_chans, channels) if i == 0 else Downsample(widths[i - 1], channels)
            self.add_module(f"patch_embed{i + 1}", step)
            self.add_module(f"blocks{i + 1}", Blocks(*(MogaNetBlock(channels, ratio, rate) for rate in rates[i])))
            self.add_module(f"norm{i + 1}", nn.BatchNorm2d(channels))
        self.global_pool = global_pooling(global_pool)
        self.head_drop = nn.Dropout(drop_rate)
        self.head = self.last_layer()
        self.apply(init_weights)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> (B, C, H/32, W/32), normalised."""
        for names in self.stage_modules:
            for name in names:
                x = self.get_submodule(name)(x)
        return x

    def stage_maps(self, x: Tensor) -> Iterator[Tensor]:
        """Normalised, as they go on."""
        for names in self.stage_modules:
            for name in names:
                x = self.get_submodule(name)(x)
            yield x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, C, H/32, W/32) -> (B, num_classes), or (B, C) with `pre_logits`."""
        x = self.global_pool(x)
        x = self.head_drop(x if self.global_pool.is_identity() else x.flatten(1))
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        return {
            "stem": r"^patch_embed1",
            "blocks": r"^(?:patch_embed|blocks|norm)(\d+)"
            if coarse
            else [(r"^patch_embed(\d+)", (0,)), (r"^blocks(\d+)\.(\d+)", None), (r"^norm(\d+)", (99999,))],
        }


class MogaNetPyramid(FeatureListNet):
    """`features_only` form: timm's, which would checkpoint norms too, each as a block of its own."""

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        for module in self.values():
            if isinstance(module, Blocks):
                module.set_grad_checkpointing(enable)


def release(name: str) -> Release:
    """The file that was trained at 224."""
    label = f"MogaNet-{name.rpartition('_')[2].upper()}"
    return common.release(name, lambda row: (row["model"], row["resolution"]) == (label, "224"))


default_cfgs = generate_default_cfgs(
    {name: default_cfg(0.9, "patch_embed1.projection.0", release(name)) for name in VARIANTS}
)


def _entrypoint(name: str) -> Callable[..., nn.Module]:
    def entrypoint(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        features = {"out_indices": (0, 1, 2, 3), "feature_cls": MogaNetPyramid}
        return build(MogaNet, name, release, pretrained, features, **(VARIANTS[name] | kwargs))

    entrypoint.__name__ = entrypoint.__qualname__ = name
    return entrypoint


for _name in VARIANTS:
    globals()[_name] = register_model(_entrypoint(_name))
