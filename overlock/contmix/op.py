"""ContMix as operators that compile, export, differentiate and count: `overlock::contmix`, `overlock::contmix_merged`.

The operators carry their backend's name as an argument. Their multiply-adds are those of the defined operator,
whichever backend runs (`cost.py`).
"""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from overlock.contmix import fused, native, reference, tiled
from overlock.contmix.cost import contmix_macs
from overlock.contmix.inputs import Backend, Inputs, window_size
from overlock.contmix.running import note

log = logging.getLogger(__name__)

BACKENDS: dict[str, Backend] = {"reference": reference, "tiled": tiled, "native": native, "fused": fused}

AUTO_ORDER = ("native", "tiled", "reference")
_logged: set[tuple[str, str]] = set()


def choose_backend(name: str, value: Tensor) -> str:
    """The backend that runs values like these (B, C, H, W).

    Raises:
        ValueError: for an unknown name, or a backend asked for by name that cannot run here (with the reason).
    """
    if name == "auto":
        order = ("fused", *AUTO_ORDER) if fused.preferred(value) else AUTO_ORDER
        chosen = next(candidate for candidate in order if BACKENDS[candidate].why_not(value) is None)
        _log_once(chosen, value.device.type)
        return chosen
    if name not in BACKENDS:
        raise ValueError(f"unknown ContMix backend {name!r}: choose one of auto, {', '.join(BACKENDS)}")
    reason = BACKENDS[name].why_not(value)
    if reason is not None:
        raise ValueError(f"ContMix backend {name!r} cannot run here: {reason}")
    return name


def _log_once(name: str, device: str) -> None:
    if (name, device) not in _logged:
        _logged.add((name, device))
        log.info("ContMix on %s runs backend %r (auto)", device, name)


@torch.library.custom_op("overlock::contmix", mutates_args=())
def contmix_op(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    rpb1: Tensor,
    rpb2: Tensor,
    scale: float,
    backend: str,
) -> Tensor:
    inputs = Inputs(query, key, value, proj_weight, proj_bias, rpb1, rpb2)
    chosen = choose_backend(backend, value)
    note(chosen)
    return _channels_last(BACKENDS[chosen].forward(inputs, scale))


@torch.library.custom_op("overlock::contmix_backward", mutates_args=())
def contmix_backward_op(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    rpb1: Tensor,
    rpb2: Tensor,
    scale: float,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    inputs = Inputs(query, key, value, proj_weight, proj_bias, rpb1, rpb2)
    gradients = BACKENDS[choose_backend(backend, value)].backward(grad, inputs, scale)
    d_query, d_key, d_value = gradients[:3]
    return (_channels_last(d_query), d_key.contiguous(), _channels_last(d_value), *gradients[3:])


@torch.library.custom_op("overlock::contmix_merged", mutates_args=())
def contmix_merged_op(
    query: Tensor, key: Tensor, value: Tensor, proj_weight: Tensor, bias1: Tensor, bias2: Tensor, scale: float
) -> Tensor:
    note("tiled")
    return _channels_last(tiled.forward_merged(query, key, value, proj_weight, bias1, bias2, scale))


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


@contmix_op.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(value, memory_format=torch.channels_last)


@contmix_merged_op.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(value, memory_format=torch.channels_last)


@contmix_backward_op.register_fake
def _(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return (
        torch.empty_like(query, memory_format=torch.channels_last),
        torch.empty_like(key, memory_format=torch.contiguous_format),
        torch.empty_like(value, memory_format=torch.channels_last),
        *(torch.empty_like(x, memory_format=torch.contiguous_format) for x in rest[:4]),
    )


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.scale, ctx.backend = inputs
    given = Inputs(*tensors)
    reason = fused.why_no_gradient(given.value, window_size(given.rpb2)) if ctx.backend == "fused" else None
    if reason is not None:
        raise ValueError(f"ContMix backend 'fused' has no gradient here: {reason}")
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    return (*contmix_backward_op(grad, *ctx.saved_tensors, ctx.scale, ctx.backend), None, None)


contmix_op.register_autograd(_backward, setup_context=_save_inputs)


# The formulas take the operators' arguments, with shapes in place of tensors.


@register_flop_formula(torch.ops.overlock.contmix, get_raw=False)
def _contmix_flops(*inputs: Any, **_kwargs: Any) -> int:
    query, key, value, _weight, _bias, rpb1, rpb2, *_ = inputs
    return 2 * sum(contmix_macs(query, key, value, rpb1, rpb2).values())


@register_flop_formula(torch.ops.overlock.contmix_merged, get_raw=False)
def _contmix_merged_flops(*inputs: Any, **_kwargs: Any) -> int:
    query, key, value, _weight, *biases, _scale = inputs
    tables = [(shape[0], *[2 * math.isqrt(shape[-1]) - 1] * 2) for shape in biases]
    return 2 * sum(contmix_macs(query, key, value, *tables).values())


@register_flop_formula(torch.ops.overlock.contmix_backward, get_raw=False)
def _contmix_backward_flops(grad: Any, *inputs: Any, **_kwargs: Any) -> int:
    return 2 * _contmix_flops(*inputs)
