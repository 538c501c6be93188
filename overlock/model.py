"""OverLoCK (CVPR 2025, arXiv 2502.20087): overview first, look closely next.

Base-Net finds features down to stride 16, Overview-Net takes a quick look at stride 32, and Focus-Net looks again at
Base-Net's features under the guidance of that overview, with kernels made from it.

Shapes: B batch, Ci channels of stage i, Cc = C4 / 4 channels of the context, H W the image.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from timm.layers import calculate_drop_path_rates
from torch import Tensor, nn

from overlock.blocks import DynamicConvBlock, RepConvBlock
from overlock.checkpoints.loading import StrictLoading
from overlock.contmix import BACKENDS
from overlock.fusion import AuxiliaryHead, Fusible, Layers, Projection, Stem
from overlock.layers import Checkpointing, Intermediates, check_size, global_pooling, init_weights
from overlock.tracing import is_symbolic

KERNEL_SIZES = (17, 15, 13, 7)  # of stages 1-4; Focus-Net's two stages take the last two
HEAD_WIDTH = 1024


def conv_bn(c_in: int, c_out: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(c_out)]


def downsample(c_in: int, c_out: int) -> Layers:
    return Layers(*conv_bn(c_in, c_out, stride=2))


def stem(c_in: int, c_out: int) -> Stem:
    half = c_out // 2
    return Stem(
        *conv_bn(c_in, half, stride=2),  # H/2
        nn.GELU(),
        *conv_bn(half, half, stride=1),
        nn.GELU(),
        *conv_bn(half, c_out, stride=2),  # H/4
        nn.GELU(),
        *conv_bn(c_out, c_out, stride=1),
    )


class FocusDownsample(Fusible):
    """Between Focus-Net's stages: features and context to half the size, each by its own convolution."""

    def __init__(self, c_in: int, c_out: int, ctx_dim: int) -> None:
        super().__init__()
        self.dims = (c_in, ctx_dim)
        self.x_proj = downsample(c_in, c_out)
        self.h_proj = downsample(ctx_dim, ctx_dim)

    def forward(self, joint: Tensor) -> Tensor:
        """(B, C3 + Cc, H, W) -> (B, C4 + Cc, H/2, W/2)"""
        x, context = joint.split(self.dims, dim=1)
        return torch.cat([self.x_proj(x), self.h_proj(context)], dim=1)


def refuse_training(model: nn.Module, mode: bool) -> bool:
    """`mode`, unless it asks a folded model to train.

    Raises:
        ValueError: if it does.
    """
    if mode and getattr(model, "frozen", False):
        raise ValueError("a deployed OverLoCK is folded for inference and cannot train: train the model it was made of")
    return mode


Self = TypeVar("Self", bound="OverLoCK")


class OverLoCK(Intermediates, Checkpointing, StrictLoading):
    """OverLoCK classifier.

    Args:
        depth: blocks of stages 1-4; stage 4 is Overview-Net.
        sub_depth: blocks of Focus-Net's two stages.
        dims: C1..C4.
        sub_num_heads: of Focus-Net's two stages; ContMix has twice as many.
        in_chans, num_classes, drop_rate, drop_path_rate: timm's; `num_classes` 0 gives the pooled features.
        global_pool: timm's pooling type, between the head's two layers; "" gives the logits of every position, a map.
        aux_head: build the auxiliary head on Overview-Net, which is used in training only.
        deploy: build the released re-parameterised form (large kernels merged, nothing else folded).
        mlp_ratio, sub_mlp_ratio: width of the MLPs of stages 1-4 and of Focus-Net.

    Input (B, in_chans, H, W), H and W 32 or more. Output logits (B, num_classes); in training mode with the auxiliary
    head `{"main": logits, "aux": logits}`, which `overlock.AuxiliaryLoss` takes.

    Its intermediates, by `forward_intermediates`, are the maps of `OverLoCKPyramid` before their norms (none of which
    the classifier has, so that stage 2 goes on un-normalised): stages 1 and 2 of Base-Net, and both of Focus-Net, where
    features and context stand side by side. The third and fourth take Overview-Net first.
    """

    def __init__(
        self,
        depth: tuple[int, ...],
        sub_depth: tuple[int, ...],
        dims: tuple[int, ...],
        sub_num_heads: tuple[int, ...],
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        aux_head: bool = False,
        deploy: bool = False,
        mlp_ratio: int = 4,
        sub_mlp_ratio: int = 3,
    ) -> None:
        super().__init__()
        self.num_classes, self.in_chans = num_classes, in_chans
        self.global_pool, self.drop_rate = global_pool, drop_rate
        self.dims = dims
        c1, c2, c3, c4 = dims
        self.ctx_dim = cc = c4 // 4
        self.num_features, self.head_hidden_size = c4 + cc, HEAD_WIDTH
        rates: Any = iter(calculate_drop_path_rates(drop_path_rate, sum(depth) + sum(sub_depth)))

        def stage(i: int) -> nn.ModuleList:
            return nn.ModuleList(
                RepConvBlock(dims[i], KERNEL_SIZES[i], next(rates), i >= 2, mlp_ratio, deploy) for _ in range(depth[i])
            )

        def focus_stage(i: int) -> nn.ModuleList:
            return nn.ModuleList(
                DynamicConvBlock(
                    dims[2 + i],
                    cc,
                    KERNEL_SIZES[2 + i],
                    sub_num_heads[i],
                    next(rates),
                    sub_mlp_ratio,
                    mixes_prior=(i, j) != (0, 0),
                    deploy=deploy,
                )
                for j in range(sub_depth[i])
            )

        self.patch_embed1 = stem(in_chans, c1)
        self.patch_embed2, self.patch_embed3 = downsample(c1, c2), downsample(c2, c3)
        self.patch_embed4 = downsample(c3, c4)
        self.high_level_proj = Projection(c4, cc, 1)
        self.patch_embedx = FocusDownsample(c3, c4, cc)
        self.blocks1, self.blocks2, self.blocks3, self.blocks4 = (stage(i) for i in range(4))
        self.sub_blocks3, self.sub_blocks4 = focus_stage(0), focus_stage(1)
        self.aux_head = self._aux_head() if aux_head else None
        self.head = Layers(
            nn.Conv2d(self.num_features, HEAD_WIDTH, 1, bias=False),
            nn.BatchNorm2d(HEAD_WIDTH),
            nn.SiLU(),
            self._pooling(),
            self._last_layer(),
        )
        self.stage_modules = [
            ("patch_embed1", "blocks1"),
            ("patch_embed2", "blocks2"),
            ("patch_embed3", "blocks3", "patch_embed4", "blocks4", "high_level_proj", "sub_blocks3"),
            ("patch_embedx", "sub_blocks4"),
        ]
        self.feature_info = [
            {"num_chs": c, "reduction": 4 * 2**i, "module": f"{name}.{len(self.get_submodule(name)._modules) - 1}"}
            for i, (c, name) in enumerate(
                zip((c1, c2, c3 + cc, c4 + cc), ("blocks1", "blocks2", "sub_blocks3", "sub_blocks4"), strict=True)
            )
        ]
        self.apply(init_weights)

    def _classifier(self, channels: int) -> nn.Module:
        return nn.Conv2d(channels, self.num_classes, 1) if self.num_classes else nn.Identity()

    def _pooling(self) -> nn.Module:
        """The head's pooling, and dropout where it is asked for."""
        pool = nn.AdaptiveAvgPool2d(1) if self.global_pool == "avg" else global_pooling(self.global_pool)
        return nn.Sequential(pool, nn.Dropout(self.drop_rate)) if self.drop_rate else pool

    def _last_layer(self) -> nn.Module:
        return self._classifier(self.head_hidden_size * global_pooling(self.global_pool).feat_mult())

    def _aux_head(self) -> AuxiliaryHead:
        c4 = self.dims[3]
        return AuxiliaryHead(nn.BatchNorm2d(c4), nn.AdaptiveAvgPool2d(1), self._classifier(c4))

    @property
    def frozen(self) -> bool:
        """Whether it is folded for inference, by `overlock.deploy` or by timm's `reparameterize_model`."""
        return any(getattr(part, "frozen", False) for child in self.children() for part in child.modules())

    def train(self: Self, mode: bool = True) -> Self:
        """Raises ValueError for the folded form."""
        return super().train(refuse_training(self, mode))

    def _check(self, images: Tensor) -> None:
        check_size(images)
        if is_symbolic(images):
            return
        if torch.jit.is_tracing() and torch.onnx.is_in_onnx_export():
            raise ValueError(
                "the TorchScript exporter cannot pool a map of any size to 7x7: give torch.onnx.export dynamo=True "
                "(timm's onnx_export.py: --dynamo), or call overlock.export_onnx"
            )
        if not torch.jit.is_tracing() and images.shape[0] == 0:
            raise ValueError("an empty batch: OverLoCK needs at least one image")
        if images.requires_grad and torch.is_grad_enabled() and self.frozen:
            raise ValueError(
                "a deployed OverLoCK works in place and gives no gradients of its images: take the model it was made of"
            )

    def stage(self, i: int, x: Tensor) -> Tensor:
        """Stage i (1-4) on the output of the one before it."""
        if i == 1:
            self._check(x)
        x = self.get_submodule(f"patch_embed{i}")(x)
        for block in self.get_submodule(f"blocks{i}").children():
            x = self.run(block, x)
        return x

    def forward_base(self, x: Tensor) -> Tensor:
        """Base-Net: (B, in_chans, H, W) -> (B, C3, H/16, W/16)."""
        return self.stage(3, self.stage(2, self.stage(1, x)))

    def forward_overview(self, base: Tensor) -> Tensor:
        """Overview-Net: (B, C3, H/16, W/16) -> (B, C4, H/32, W/32)."""
        return self.stage(4, base)

    def forward_focus(self, base: Tensor, overview: Tensor) -> tuple[Tensor, Tensor]:
        """Focus-Net: its two stages' outputs, (B, C3 + Cc, H/16, W/16) and (B, C4 + Cc, H/32, W/32)."""
        stage3, prior32 = self._focus3(base, overview)
        return stage3, self._focus4(stage3, prior32)

    def _focus3(self, base: Tensor, overview: Tensor) -> tuple[Tensor, Tensor]:
        """Focus-Net's first stage, and the prior (B, Cc, H/32, W/32) of its second."""
        prior32 = self.high_level_proj(overview)
        prior16 = F.interpolate(prior32, base.shape[-2:], mode="bilinear", align_corners=False)
        joint = torch.cat([base, prior16], dim=1)
        for block in self.sub_blocks3:
            joint = self.run(block, joint, prior16)
        return joint, prior32

    def _focus4(self, joint: Tensor, prior32: Tensor) -> Tensor:
        joint = self.patch_embedx(joint)
        for block in self.sub_blocks4:
            joint = self.run(block, joint, prior32)
        return joint

    def stage_maps(self, x: Tensor) -> Iterator[Tensor]:
        x = self.stage(1, x)
        yield x
        x = self.stage(2, x)
        yield x
        base = self.stage(3, x)
        stage3, prior32 = self._focus3(base, self.forward_overview(base))
        yield stage3
        yield self._focus4(stage3, prior32)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> Focus-Net's output (B, C4 + Cc, H/32, W/32), or the last map of a pruned model."""
        if len(self.stage_modules) < 4:
            return next(islice(self.stage_maps(x), len(self.stage_modules) - 1, None))
        base = self.forward_base(x)
        return self.forward_focus(base, self.forward_overview(base))[1]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, C4 + Cc, H/32, W/32) -> (B, num_classes), or (B, 1024) with `pre_logits`; unpooled, maps of them."""
        x = (self.head[:-1] if pre_logits else self.head)(x)
        return x.flatten(1) if self.global_pool else x

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        if not self.training or self.aux_head is None:
            return self.forward_head(self.forward_features(x))
        base = self.forward_base(x)
        overview = self.forward_overview(base)
        logits = self.forward_head(self.forward_focus(base, overview)[1])
        return {"main": logits, "aux": self.aux_head(overview).flatten(1)}

    def drop_head(self) -> None:
        self.head, self.aux_head = Layers(self._pooling(), nn.Identity()), None

    def get_classifier(self) -> nn.Module:
        return self.head[-1]

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """New last layer of the head, and of the auxiliary head, for `num_classes` (0: none), and pooling where given.

        Raises:
            ValueError: for a pooling that timm does not have.
        """
        if global_pool is not None:
            global_pooling(global_pool)  # an unknown one changes nothing
            self.global_pool = global_pool
            self.head[-2] = self._pooling()
        self.num_classes = num_classes
        like = next(iter(self.state_dict().values()))
        self.head[-1] = self._last_layer().to(like).apply(init_weights)
        if self.aux_head is not None:
            self.aux_head[-1] = self._classifier(self.dims[3]).to(like).apply(init_weights)

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's groups for layer-wise learning rates: by this dictionary's order, then by the numbers captured."""
        if coarse:
            return {
                "stem": r"^patch_embed1",
                "stages": r"^(?:patch_embed|blocks)(\d)",
                "focus3": r"^(?:high_level_proj|sub_blocks3)",
                "focus4": r"^(?:patch_embedx|sub_blocks4)",
            }
        return {
            "stem": r"^patch_embed1",
            "stages": [(r"^patch_embed(\d)", (0,)), (r"^blocks(\d)\.(\d+)", None)],
            "focus3": [(r"^high_level_proj", (0,)), (r"^sub_blocks3\.(\d+)", None)],
            "focus4": [(r"^patch_embedx", (0,)), (r"^sub_blocks4\.(\d+)", None)],
        }


def set_backend(model: nn.Module, backend: str) -> nn.Module:
    """Choose ContMix's implementation (`auto` or a name of `overlock.contmix.BACKENDS`) for all blocks of `model`.

    Raises:
        ValueError: for an unknown name.
    """
    if backend != "auto" and backend not in BACKENDS:
        raise ValueError(f"unknown ContMix backend {backend!r}: choose one of auto, {', '.join(BACKENDS)}")
    for module in model.modules():
        if hasattr(module, "backend"):
            module.backend = backend  # type: ignore[assignment]
    return model
