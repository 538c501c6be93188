"""OverLoCK's two blocks. Names of parameters are those of the released weights.

Shapes: B batch, C channels of the block, Cc channels of the context, H W map, K large-kernel size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from overlock.contmix import contmix, enlarged_size
from overlock.fusion import Fusible
from overlock.layers import GRN, SE, DilatedReparam, LayerNorm2d, LayerScale, ResDWConv
from overlock.mlp import MLP
from overlock.residual import residual
from overlock.tracing import as_one_node, is_captured, is_symbolic, why_not_read

SMALL_KERNEL = 5  # of ContMix's two kernels
REGIONS = 7  # region centres a side


class RepConvBlock(Fusible):
    """Block of Base-Net and Overview-Net: a dilated large-kernel convolution and an MLP on one residual branch.

    Args:
        channels: C.
        kernel_size: K.
        drop_path: stochastic-depth rate.
        layer_scale: scale the residual (not the branch) by a LayerScale that starts at 1; stages 3 and 4 do.
        mlp_ratio: width of the MLP over C.
        deploy: build the merged large kernel.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        drop_path: float = 0.0,
        layer_scale: bool = False,
        mlp_ratio: int = 4,
        deploy: bool = False,
    ) -> None:
        super().__init__()
        hidden = mlp_ratio * channels
        self.dwconv = ResDWConv(channels)
        self.proj = MLP(
            LayerNorm2d(channels),
            DilatedReparam(channels, kernel_size, deploy=deploy),
            nn.BatchNorm2d(channels),
            SE(channels),
            nn.Conv2d(channels, hidden, 1),
            nn.GELU(),
            ResDWConv(hidden),
            GRN(hidden),
            nn.Conv2d(hidden, channels, 1),
        )
        self.ls = LayerScale(channels) if layer_scale else nn.Identity()
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)"""
        if is_symbolic(x):
            return as_one_node(self, x)
        x = self.dwconv(x)
        return residual(x, self.proj(x), self.ls, self.drop_path)


class DynamicConvBlock(Fusible):
    """Block of Focus-Net: ContMix under the guidance of the overview (paper: Dynamic Block with GDSA, figure 3).

    Args:
        dim: C, channels of the features.
        ctx_dim: Cc, channels of the context.
        kernel_size: K of ContMix's large kernel and of the static large kernel beside it.
        num_heads: ContMix has twice as many heads, G.
        drop_path: stochastic-depth rate, of both branches.
        mlp_ratio: width of the MLP over C.
        mixes_prior: mix the context with the prior first; all but Focus-Net's first block do.
        deploy: build the merged large kernel.
    """

    def __init__(
        self,
        dim: int,
        ctx_dim: int,
        kernel_size: int,
        num_heads: int,
        drop_path: float = 0.0,
        mlp_ratio: int = 3,
        mixes_prior: bool = True,
        deploy: bool = False,
    ) -> None:
        super().__init__()
        width, hidden, heads = dim + ctx_dim, mlp_ratio * dim, 2 * num_heads
        self.dim, self.ctx_dim, self.kernel_size = dim, ctx_dim, kernel_size
        self.scale = (dim // heads) ** -0.5
        self.backend = "auto"
        if mixes_prior:
            self.x_scale, self.h_scale = LayerScale(ctx_dim), LayerScale(ctx_dim)
        self.mixes_prior = mixes_prior
        self.dwconv1 = ResDWConv(width)
        self.norm1 = LayerNorm2d(width)
        self.fusion = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, groups=width),
            nn.BatchNorm2d(width),
            nn.GELU(),
            nn.Conv2d(width, dim, 1),
            GRN(dim),
        )
        self.gate = nn.Sequential(nn.Conv2d(dim, dim, 1, bias=False), nn.BatchNorm2d(dim), nn.SiLU())
        self.lepe = nn.Sequential(DilatedReparam(dim, kernel_size, deploy=deploy), nn.BatchNorm2d(dim))
        self.weight_query = nn.Sequential(nn.Conv2d(dim, dim // 2, 1, bias=False), nn.BatchNorm2d(dim // 2))
        self.weight_key = nn.Sequential(
            nn.AdaptiveAvgPool2d(REGIONS),
            nn.Conv2d(ctx_dim, dim // 2, 1, bias=False),
            nn.BatchNorm2d(dim // 2),
        )
        self.weight_proj = nn.Conv2d(REGIONS**2, SMALL_KERNEL**2 + kernel_size**2, 1)
        self.rpb1 = nn.Parameter(torch.zeros(heads, 2 * SMALL_KERNEL - 1, 2 * SMALL_KERNEL - 1))
        self.rpb2 = nn.Parameter(torch.zeros(heads, 2 * kernel_size - 1, 2 * kernel_size - 1))
        self.dyconv_proj = nn.Sequential(nn.Conv2d(dim, dim, 1, bias=False), nn.BatchNorm2d(dim))
        self.se_layer = SE(dim)
        self.proj = nn.Sequential(nn.BatchNorm2d(dim), nn.Conv2d(dim, width, 1))
        self.ls1 = LayerScale(width)
        self.dwconv2 = ResDWConv(width)
        self.norm2 = LayerNorm2d(width)
        self.mlp = MLP(
            nn.Conv2d(width, hidden, 1), nn.GELU(), ResDWConv(hidden), GRN(hidden), nn.Conv2d(hidden, width, 1)
        )
        self.ls2 = LayerScale(width)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def projection(self) -> tuple[Tensor, Tensor]:
        """Weight (T, R) and bias (T,) of `weight_proj`, by its outputs for the unit vectors where it is not as made.

        Raises:
            ValueError: if it is not linear: ContMix takes it as a matrix.
        """
        layer = self.weight_proj
        if why_not_read(layer) is None:
            assert layer.bias is not None
            return layer.weight.flatten(1), layer.bias
        units = torch.eye(REGIONS**2, dtype=self.rpb1.dtype, device=self.rpb1.device)
        probe = units.sum(0, keepdim=True) / 2  # halfway between the units' sum and nothing
        outputs = layer(torch.cat([torch.zeros_like(probe), units, probe])[:, :, None, None]).flatten(1)  # 2 + R, T
        bias, weight, probed = outputs[0], (outputs[1:-1] - outputs[0]).t(), outputs[-1]
        if not (self.training or is_captured() or outputs.is_meta):
            off = (probed - bias - weight.sum(1) / 2).abs().max()
            if off > 0.02 * (probed - bias).abs().max() + 1e-6:
                raise ValueError(f"weight_proj {why_not_read(layer)}, and is not linear: ContMix takes it as a matrix")
        return weight, bias

    def context_mixing(self, features: Tensor, value: Tensor) -> Tensor:
        """ContMix of `value` (B, C, H, W) by kernels made from `features` (B, C + Cc, H, W), before its projection."""
        height, width = value.shape[-2:]
        size = enlarged_size(height, width, self.kernel_size)
        if size is not None:
            features, value = (F.interpolate(x, size, mode="bilinear", align_corners=False) for x in (features, value))
        x, context = features.split([self.dim, self.ctx_dim], dim=1)
        mixed = contmix(
            self.weight_query(x),
            self.weight_key(context),
            value,
            *self.projection(),
            self.rpb1,
            self.rpb2,
            self.scale,
            self.backend,
        )
        return mixed if size is None else F.adaptive_avg_pool2d(mixed, (height, width))

    def mix(self, x: Tensor) -> Tensor:
        """The first branch: (B, C + Cc, H, W) -> (B, C + Cc, H, W)."""
        features = self.norm1(x)
        value = self.fusion(features)
        gate = self.gate(value)
        y = self.dyconv_proj(self.context_mixing(features, value)) + self.lepe(value)
        return self.proj(self.se_layer(y) * gate)

    def forward(self, joint: Tensor, prior: Tensor) -> Tensor:
        """Features and context in one map (B, C + Cc, H, W), and the prior (B, Cc, H, W) -> (B, C + Cc, H, W)."""
        if is_symbolic(joint):
            return as_one_node(self, joint, prior)
        if self.mixes_prior:
            x, context = joint.split([self.dim, self.ctx_dim], dim=1)
            joint = torch.cat([x, self.x_scale(context) + self.h_scale(prior)], dim=1)
        x = self.dwconv1(joint)
        x = residual(x, self.mix(x), self.ls1, self.drop_path)
        x = self.dwconv2(x)
        return residual(x, self.mlp(self.norm2(x)), self.ls2, self.drop_path)
