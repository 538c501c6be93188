"""Parameters and MACs of a dense model, split into its parts, counted on the meta device.

One multiply-add counts as one. Counted are convolutions, transposed convolutions and linear layers; apart from them
ContMix's own products, and the additions of the convolutions' biases. Norms, activations, resizing and RoIAlign are not
counted.

That the published counts include biases is inferred from what is left over, not read in a counter: without them three
MogaNet rows are 0.23 to 0.34 % below, with them every row of ConvNeXt, UniRepLKNet and MogaNet is within 0.1 %.
OverLoCK's rows stay 0.2 to 1.9 % below and are not explained: no share of ContMix's products fits all its sizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.dense.segmentation import SegmentationModel

CONVOLUTION = torch.ops.aten.convolution

BOXES, MASKS = 1000, 100
"""Boxes that the box heads score and masks that the mask heads draw, in each stage, in published figures."""

SIZES = {"segmentation": (512, 2048), "detection": (800, 1280)}
"""(height, width) of the published cost figures."""


@dataclass(frozen=True)
class Part:
    """Cost of one part: parameters; MACs of convolutions and linear layers; their biases' additions; ContMix's MACs."""

    name: str
    params: int
    macs: int = 0
    bias_additions: int = 0
    contmix_macs: int = 0


@dataclass(frozen=True)
class DenseCost:
    """Cost of a whole model by part; the sums over the parts are the model's."""

    parts: tuple[Part, ...]

    @property
    def params(self) -> int:
        return sum(part.params for part in self.parts)

    @property
    def macs(self) -> int:
        return sum(part.macs for part in self.parts)

    @property
    def contmix_macs(self) -> int:
        return sum(part.contmix_macs for part in self.parts)

    @property
    def published_macs(self) -> int:
        """MACs and bias additions without ContMix: for comparison with published counts only (see the module)."""
        return self.macs + sum(part.bias_additions for part in self.parts)


def _bias_additions(x: Any, weight: Any, bias: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return math.prod(out_shape) if bias is not None else 0


def count(name: str, modules: Sequence[nn.Module | None], run: Callable[[], Any]) -> tuple[Any, Part]:
    """What `run` returns, and the cost of it as the part `name` with the parameters of `modules`."""
    counter = FlopCounterMode(display=False)
    biases = FlopCounterMode(display=False, custom_mapping={CONVOLUTION: _bias_additions})
    with torch.no_grad():
        with counter:
            out = run()
        with biases:
            run()
    flops = {str(op): value for op, value in counter.get_flop_counts()["Global"].items()}
    contmix = sum(value for op, value in flops.items() if "contmix" in op)
    additions = biases.get_flop_counts()["Global"].get(CONVOLUTION, 0)
    return out, Part(name, params(*modules), (sum(flops.values()) - contmix) // 2, additions, contmix // 2)


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
    from bench.dense.roi_heads import BOX_SIZE, MASK_SIZE

    channels = 256
    boxes = torch.empty(BOXES, channels, BOX_SIZE, BOX_SIZE, device="meta")
    masks = torch.empty(MASKS, channels, MASK_SIZE, MASK_SIZE, device="meta")
    return [out for head in roi_head.box_heads for out in head(boxes)] + [head(masks) for head in roi_head.mask_heads]
