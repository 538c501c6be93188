"""Multiply-adds as a counter of modules sees them: the convention of most published figures of these networks.

mmcv's `get_model_complexity_info`, and ptflops, which it comes from, hook themselves to the modules whose type is
exactly one that they know. They add a convolution's bias, twice a norm's elements, a ReLU's outputs and a pool's
inputs. They see neither functions, nor products that are no modules, nor modules of a derived class: not ContMix's
affinities and aggregation (its projection of affinities to taps is a 1x1 convolution there), and not OverLoCK's
residual depthwise convolutions. No source says that it counted so: it is inferred, since whole tables come out by it
as printed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import overlock.contmix  # noqa: F401 - registers its operator
from overlock.fusion import Projection

COUNTER = "counter of modules"
METHOD = "hooks on modules of known types, as mmcv's get_model_complexity_info has them"

CONTMIX = torch.ops.overlock.contmix
PROJECTION = "weight_proj"
"""ContMix's convolution: the operator does its work, and it runs only to tell its weights."""


Rule = Callable[[Any, Tensor, Any], int]
"""What is counted of a call: the module, its first input, its output."""


def count_modules(
    models: Sequence[nn.Module], run: Callable[[], Any], more: Mapping[type[nn.Module], Rule] | None = None
) -> int:
    """What a counter of modules counts while `run` runs `models`, which are on any device.

    `more` are rules for types of ours that other modules stand for in the networks that were counted.
    """
    rules = {**_RULES, **(more or {})}
    total = 0

    def add(module: nn.Module, inputs: tuple[Tensor, ...], out: Any) -> None:
        nonlocal total
        total += rules[type(module)](module, inputs[0], out)

    named = ((name, m) for model in models for name, m in model.named_modules() if type(m) in rules)
    known = {m for name, m in named if not name.endswith(PROJECTION)}
    hooks = [module.register_forward_hook(add) for module in known]
    try:
        with torch.no_grad(), FlopCounterMode(display=False, custom_mapping={CONTMIX: _tap_projection}) as counter:
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return total + counter.get_flop_counts().get("Global", {}).get(CONTMIX, 0)


def _tap_projection(query: Any, key: Any, value: Any, weight: Any, bias: Any, rpb1: Any, *_: Any, **__: Any) -> int:
    """ContMix's projection as the 1x1 convolution with bias that it is there: regions to taps, each head and token."""
    batch, _, height, width = query
    return int(batch * rpb1[0] * height * width * weight[0] * (weight[1] + 1))


def _convolution(module: Any, x: Tensor, out: Tensor) -> int:
    each = math.prod(module.kernel_size) * module.in_channels // module.groups
    return out.numel() * (each + (module.bias is not None))


def _transposed(module: Any, x: Tensor, out: Tensor) -> int:
    each = math.prod(module.kernel_size) * module.out_channels // module.groups
    return x.numel() * each + (out.numel() if module.bias is not None else 0)


def _linear(module: Any, x: Tensor, out: Tensor) -> int:
    return out.numel() * int(module.in_features)  # its bias is not added


def _norm(module: Any, x: Tensor, out: Tensor) -> int:
    affine = getattr(module, "affine", False) or getattr(module, "elementwise_affine", False)
    return x.numel() * (2 if affine else 1)


def _inputs(module: Any, x: Tensor, out: Tensor) -> int:
    return x.numel()


def _outputs(module: Any, x: Tensor, out: Tensor) -> int:
    return out.numel()


_RULES: Mapping[type[nn.Module], Rule] = {
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _convolution),
    Projection: _convolution,  # a plain nn.Conv2d in the released networks
    nn.ConvTranspose2d: _transposed,
    nn.Linear: _linear,
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.LayerNorm), _norm),
    **dict.fromkeys((nn.ReLU, nn.PReLU, nn.ELU, nn.LeakyReLU, nn.ReLU6), _outputs),
    **dict.fromkeys((nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d), _inputs),
    nn.Upsample: _outputs,
}
"""Types of modules that the counter knows, each with what it counts of a call."""
