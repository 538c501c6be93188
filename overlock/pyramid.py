"""Feature pyramids of OverLoCK for segmentation and detection: strides 4, 8, 16, 32, each through its own LayerNorm.

The released dense weights fix two things that no shape shows. The *normalised* stage-2 map goes on into stage 3, while
stage 1 goes on un-normalised. And the forms differ: detection adds Overview-Net's output to the last feature.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.models import FeatureInfo
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from overlock.fusion import Layers
from overlock.layers import LayerNorm2d, LayerScale, Unscriptable
from overlock.model import OverLoCK, refuse_training

FORMS = ("segmentation", "detection")


class OverLoCKPyramid(Unscriptable):
    """`features_only` form of an OverLoCK: a list of maps (B, C, H/s, W/s), finest first.

    Args:
        model: the classifier whose stages to take; its heads are dropped.
        out_indices: which of the four maps to return (0: stride 4 ... 3: stride 32).
        form: `segmentation` or `detection`, as their released weights have it.

    Raises:
        ValueError: for an unknown form.
    """

    def __init__(
        self, model: OverLoCK, out_indices: int | Sequence[int] = (0, 1, 2, 3), form: str = "segmentation"
    ) -> None:
        super().__init__()
        if form not in FORMS:
            raise ValueError(f"unknown dense form {form!r}: choose one of {', '.join(FORMS)}")
        taken, _ = feature_take_indices(4, out_indices if isinstance(out_indices, int) else list(out_indices))
        self.out_indices = tuple(sorted(set(taken)))
        self.feature_info = FeatureInfo(model.feature_info, self.out_indices)
        self._net = [model]  # in a list: its modules are registered below, under the released names
        for name, module in model.named_children():
            if name not in ("head", "aux_head"):
                self.add_module(name, module)
        channels = [info["num_chs"] for info in model.feature_info]
        like = model.high_level_proj.weight
        if form == "detection":
            c4 = model.dims[3]
            self.h_proj = Layers(nn.Conv2d(c4, channels[3], 1), LayerScale(channels[3], 1e-5)).to(like)
            channels.append(c4)
        self.extra_norm = nn.ModuleList(LayerNorm2d(c).to(like) for c in channels)
        self.form = form
        model._modules = self._modules  # whoever replaces a part, an adapter say, replaces the network's

    added = ("extra_norm.", "h_proj.")
    """What it has beyond the classifier."""

    def train(self, mode: bool = True) -> OverLoCKPyramid:
        """Raises ValueError for the folded form."""
        super().train(refuse_training(self, mode))
        return self

    @property
    def net(self) -> OverLoCK:
        return self._net[0]

    @property
    def frozen(self) -> bool:
        return self.net.frozen

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, in_chans, H, W) -> the maps of `out_indices`."""
        net, norm = self.net, self.extra_norm
        stage1 = net.stage(1, x)
        feature2 = norm[1](net.stage(2, stage1))
        base = net.stage(3, feature2)
        overview = net.forward_overview(base)
        stage3, stage4 = net.forward_focus(base, overview)
        feature4 = norm[3](stage4)
        if self.form == "detection":
            feature4 = feature4 + self.h_proj(norm[4](overview))
        features = [norm[0](stage1), feature2, norm[2](stage3), feature4]
        return [features[i] for i in self.out_indices]

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.net.set_grad_checkpointing(enable)
