"""Parameters and MACs of a dense model, split into its parts, counted on the meta device.

One multiply-add counts as one. Counted are convolutions, transposed convolutions, linear layers, and ContMix as it is
defined; norms, activations, resizing and RoIAlign are not.

Published figures follow another convention, which `published_macs` reproduces. Their counter attaches itself to modules
of exactly the types that it knows. It adds a convolution's bias; it does not see OverLoCK's residual depthwise
convolutions, whose class is derived from Conv2d; and of ContMix it sees the projection of affinities to taps, a 1x1
convolution there, but neither of the two products that are no modules. That is inferred from the figures, not read
anywhere: all twenty rows agree within 0.16 %, and what is left (at most 1.0 G) is what batch norms, counted twice an
element, ReLU and pooling would add.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import overlock.contmix  # noqa: F401 - registers its operator
from bench.dense.segmentation import SegmentationModel
from bench.tasks import BOXES, MASKS
from overlock.layers import ResDWConv

CONVOLUTION = torch.ops.aten.convolution

SIZES = {"segmentation": (512, 2048), "detection": (800, 1280)}
"""(height, width) of the published cost figures."""


@dataclass(frozen=True)
class Part:
    """Cost of one part: parameters; MACs of convolutions and linear layers; ContMix's; all by the published counter."""

    name: str
    params: int
    macs: int = 0
    contmix_macs: int = 0
    published_macs: int = 0


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
    def published_macs(self) -> int:
        """For comparison with published counts only (see the module)."""
        return sum(part.published_macs for part in self.parts)


def _bias_additions(x: Any, weight: Any, bias: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return math.prod(out_shape) if bias is not None else 0


def _tap_projection(query: Any, key: Any, value: Any, weight: Any, bias: Any, rpb1: Any, *_: Any, **__: Any) -> int:
    """ContMix's projection as the 1x1 convolution with bias that it is there: regions to taps, each head and token."""
    batch, _, height, width = query
    return batch * rpb1[0] * height * width * weight[0] * (weight[1] + 1)


ADDED = {CONVOLUTION: _bias_additions, torch.ops.overlock.contmix: _tap_projection}
"""What the published counter adds to the MACs without ContMix, by operator."""


class _Unseen:
    """Within it, sums the MACs and bias additions of the convolutions that the published counter does not see."""

    def __init__(self, modules: Sequence[nn.Module | None]) -> None:
        self.total = 0
        self._modules = [m for top in modules if top is not None for m in top.modules() if isinstance(m, ResDWConv)]

    def __enter__(self) -> _Unseen:
        self._hooks = [module.register_forward_hook(self._add) for module in self._modules]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _add(self, module: nn.Module, inputs: Any, out: Tensor) -> None:
        assert isinstance(module, ResDWConv)
        self.total += out.numel() * (math.prod(module.kernel_size) + 1)


def count(name: str, modules: Sequence[nn.Module | None], run: Callable[[], Any]) -> tuple[Any, Part]:
    """What `run` returns, and the cost of it as the part `name` with the parameters of `modules`."""
    counter = FlopCounterMode(display=False)
    added = FlopCounterMode(display=False, custom_mapping=ADDED)
    with torch.no_grad():
        with counter:
            out = run()
        with added, _Unseen(modules) as unseen:
            run()
    flops = counter.get_flop_counts()["Global"]
    contmix = sum(value for op, value in flops.items() if "contmix" in str(op)) // 2
    macs = sum(flops.values()) // 2 - contmix
    more = added.get_flop_counts()["Global"]
    published = macs + sum(more.get(op, 0) for op in ADDED) - unseen.total
    return out, Part(name, params(*modules), macs, contmix, published)


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
