"""Parameters and MACs of a dense model, split into its parts, counted on the meta device.

One multiply-add counts as one. Counted are convolutions, transposed convolutions, linear layers, and ContMix as it is
defined; norms, activations, resizing and RoIAlign are not.

Published figures follow another convention, `bench.cost.modules`, whose count stands beside: all twenty released
configurations come out by it as they were counted, to the last digit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import overlock.contmix  # noqa: F401 - registers its operator
from bench.cost.modules import Rule, count_modules
from bench.dense.layers import ConvModule
from bench.dense.roi_heads import BOX_SIZE, MASK_SIZE, BoxHead, MaskHead
from bench.dense.segmentation import SegmentationModel
from bench.tasks import BOXES, MASKS

SIZES = {"segmentation": (512, 2048), "detection": (800, 1280)}
"""(height, width) of the published cost figures."""


@dataclass(frozen=True)
class Part:
    """Cost of one part: parameters; MACs of convolutions and linear layers; ContMix's; all as modules are counted."""

    name: str
    params: int
    macs: int = 0
    contmix_macs: int = 0
    module_macs: int = 0


@dataclass(frozen=True)
class DenseCost:
    """Cost of a whole model by part; the sums over the parts are the model's."""

    parts: tuple[Part, ...]

    @property
    def params(self) -> int:
        return sum(part.params for part in self.parts)

    @property
    def macs(self) -> int:
        """Without ContMix's."""
        return sum(part.macs for part in self.parts)

    @property
    def contmix_macs(self) -> int:
        return sum(part.contmix_macs for part in self.parts)

    @property
    def module_macs(self) -> int:
        """By the convention of published figures."""
        return sum(part.module_macs for part in self.parts)


def _unit(module: ConvModule, x: Tensor, out: Tensor) -> int:
    """There ReLU is a module, and the norm is SyncBatchNorm, a type that the counter does not know."""
    return out.numel() * (int(module.relu) - (0 if module.bn is None else 2))


def _box_head(module: BoxHead, x: Tensor, out: Any) -> int:
    """There the ReLU after each shared linear layer is a module."""
    fcs: Any = module.shared_fcs
    return sum(len(x) * int(linear.out_features) for linear in fcs)


def _mask_head(module: MaskHead, x: Tensor, out: Tensor) -> int:
    """There the ReLU after the upsampling by two is a module."""
    return 4 * x.numel()


HEADS: Mapping[type[nn.Module], Rule] = {ConvModule: _unit, BoxHead: _box_head, MaskHead: _mask_head}
"""What the counter of modules sees in the released heads where ours work without modules, or with others."""


def count(name: str, modules: Sequence[nn.Module | None], run: Callable[[], Any]) -> tuple[Any, Part]:
    """What `run` returns, and the cost of it as the part `name` with the parameters of `modules`."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        out = run()
    flops = counter.get_flop_counts()["Global"]
    contmix = sum(value for op, value in flops.items() if "contmix" in str(op)) // 2
    macs = sum(flops.values()) // 2 - contmix
    by_modules = count_modules([module for module in modules if module is not None], run, HEADS)
    return out, Part(name, params(*modules), macs, contmix, by_modules)


def params(*modules: nn.Module | None) -> int:
    """Parameters, buffers apart."""
    return sum(p.numel() for module in modules if module is not None for p in module.parameters())


def dense_cost(model: nn.Module, size: tuple[int, int]) -> DenseCost:
    """Cost of a model on the meta device, for one image of `size` = (height, width).

    Segmentation: `backbone`, `head`, and `auxiliary`, whose parameters count while its MACs don't (it does not run at
    inference). Detection: `backbone`, `neck + RPN`, and `RoI heads` of 1000 boxes and 100 masks a stage.
    """
    image = torch.empty(1, 3, *size, device="meta")
    dense: Any = model
    maps, backbone = count("backbone", [dense.backbone], lambda: dense.backbone(image))
    if isinstance(model, SegmentationModel):
        _, head = count("head", [dense.decode_head], lambda: dense.decode_head(maps))
        return DenseCost((backbone, head, Part("auxiliary", params(dense.auxiliary_head))))
    _, neck = count("neck + RPN", [dense.neck, dense.rpn_head], lambda: dense.rpn_head(dense.neck(maps)))
    _, roi = count("RoI heads", [dense.roi_head], lambda: _roi_heads(dense.roi_head))
    return DenseCost((backbone, neck, roi))


def _roi_heads(roi_head: Any) -> list[Tensor]:
    """Each box head on 1000 regions and each mask head on 100: the networks alone, RoIAlign costs no MACs."""
    channels = 256
    boxes = torch.empty(BOXES, channels, BOX_SIZE, BOX_SIZE, device="meta")
    masks = torch.empty(MASKS, channels, MASK_SIZE, MASK_SIZE, device="meta")
    return [out for head in roi_head.box_heads for out in head(boxes)] + [head(masks) for head in roi_head.mask_heads]
