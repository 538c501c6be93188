"""Parameters and multiply-adds (MACs) of a network, counted on the meta device: no memory, no arithmetic, any size.

MACs are those of convolutions, linear layers, matrix products and ContMix, one image, evaluation mode. Norms,
activations, pooling, resizing, sums and products by element are left out, as the field does. fvcore's trace gives the
figure; torch's FlopCounterMode counts again by another way (dispatched operators instead of a trace), and both must
agree. ContMix is counted as it is defined (`overlock.contmix.contmix_macs`), whichever implementation runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis
from fvcore.nn.jit_analysis import JitModelAnalysis
from fvcore.nn.jit_handles import Handle, generic_activation_jit, get_shape
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bench.cost.meta import CONVOLUTION, Flat, RecordedConvolutions, RememberedShapes, convolution_macs
from overlock.contmix import contmix_macs

METHOD = "fvcore, checked by torch FlopCounterMode"
COUNTER = "defined"
"""Name of the convention above: convolutions, linear layers, matrix products, and ContMix as it is defined."""

ACTIVATIONS = "fvcore: elements put out by convolutions, linear layers, matrix products and ContMix"
AGREEMENT = 0.01
"""Largest relative difference between the two counters."""


class CostError(ValueError):
    """The multiply-adds cannot be counted with confidence; the message names what stands in the way."""


@dataclass(frozen=True)
class Cost:
    """Multiply-adds of one image."""

    macs: int
    macs_torch: int  # by the second counter
    by_operator: dict[str, int]
    left_out: tuple[str, ...]  # operators seen, fvcore's norms and pools apart, that the convention leaves out


def count_parameters(model: nn.Module) -> int:
    """Number of parameters, each shared one once."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, resolution: tuple[int, int]) -> Cost:
    """MACs of `model`, which lives on the meta device and is in evaluation mode, for one image of `resolution` (H, W).

    Raises:
        CostError: for an operator that may multiply and that the counter does not know, or if the counters disagree.
    """
    by_operator, seen = _traced(FlopCountAnalysis, model, resolution, _HANDLES)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), RememberedShapes(), counter:
        model(torch.empty(1, 3, *resolution, device="meta"))
    macs, macs_torch = sum(by_operator.values()), counter.get_total_flops() // 2
    unknown = sorted(name for name in seen if not _known_free(name))
    if unknown:
        raise CostError(f"no MAC formula for {', '.join(unknown)}: add one to bench/cost/count.py")
    if abs(macs - macs_torch) > AGREEMENT * max(macs, macs_torch):
        raise CostError(f"the counters disagree: fvcore {macs:,} MACs, torch {macs_torch:,}")
    return Cost(macs, macs_torch, by_operator, tuple(sorted(seen)))


def count_parts(model: nn.Module, resolution: tuple[int, int]) -> dict[str, int]:
    """MACs by operator as fvcore counts by default, with norms, pools and resizes (`LEFT_OUT`); ContMix by parts."""
    handles = {name: handle for name, handle in _HANDLES.items() if name not in LEFT_OUT}
    return _traced(FlopCountAnalysis, model, resolution, {**handles, CONTMIX: _contmix_parts})[0]


def count_activations(model: nn.Module, resolution: tuple[int, int]) -> int:
    """Elements that convolutions, linear layers and matrix products put out for one image, as fvcore counts them."""
    handles = {CONVOLUTION: generic_activation_jit("conv"), CONTMIX: generic_activation_jit("contmix")}
    return sum(_traced(ActivationCountAnalysis, model, resolution, handles)[0].values())


def _traced(
    kind: type[JitModelAnalysis], model: nn.Module, resolution: tuple[int, int], handles: Mapping[str, Handle]
) -> tuple[dict[str, int], Collection[str]]:
    """What one of fvcore's analyses counts of each operator, and the operators that it has no formula for."""
    analysis = kind(Flat(model), torch.empty(1, 3, *resolution, device="meta")).set_op_handle(**handles)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    with torch.no_grad(), RememberedShapes(), RecordedConvolutions():
        return {name: int(n) for name, n in analysis.by_operator().items()}, analysis.unsupported_ops()


CONTMIX = "overlock::contmix"


def _contmix_parts(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    query, key, value, _, _, rpb1, rpb2 = (get_shape(v) for v in inputs[:7])
    return Counter({f"contmix {part}": n for part, n in contmix_macs(query, key, value, rpb1, rpb2).items()})


def _contmix(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    return Counter(contmix=sum(_contmix_parts(inputs, outputs).values()))


def _attention(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """Query times keys and weights times values: (..., N, D), (..., M, D), (..., M, E)."""
    (*batch, n, d), (*_, m, _), (*_, e) = (get_shape(v) for v in inputs[:3])
    return Counter(attention=int(torch.Size(batch).numel() * n * m * (d + e)))


def _baddbmm(inputs: list[Any], outputs: list[Any]) -> int:
    b, n, m = get_shape(inputs[1])
    return int(b * n * m * get_shape(inputs[2])[-1])


LEFT_OUT = (
    "aten::batch_norm",
    "aten::group_norm",
    "aten::layer_norm",
    "aten::instance_norm",
    "aten::upsample_nearest2d",
    "aten::upsample_bilinear2d",
    "aten::adaptive_avg_pool2d",
    "aten::grid_sampler",
)
"""What fvcore counts by default and the convention leaves out."""

_HANDLES: dict[str, Handle] = {
    **dict.fromkeys(LEFT_OUT, lambda inputs, outputs: Counter()),
    CONVOLUTION: convolution_macs,
    CONTMIX: _contmix,
    "aten::scaled_dot_product_attention": _attention,
    "aten::baddbmm": _baddbmm,
}

# fmt: off
_FREE = frozenset({
    "adaptive_avg_pool1d", "adaptive_max_pool1d", "adaptive_max_pool2d", "alias", "amax", "amin", "argmax",
    "as_strided", "avg_pool1d", "avg_pool2d", "bernoulli_", "channel_shuffle", "clone", "concat", "constant_pad_nd",
    "cumsum", "diagonal", "dropout_", "expand_as", "feature_dropout", "flip", "frobenius_norm", "gather", "index",
    "index_select", "linalg_vector_norm", "log_softmax", "logsumexp", "masked_fill", "masked_fill_", "max_pool1d",
    "max_pool2d", "mean", "meshgrid", "movedim", "narrow", "native_channel_shuffle", "new_ones", "norm", "numpy_T",
    "one_hot", "pad", "pixel_shuffle", "pixel_unshuffle", "repeat", "repeat_interleave", "reshape_as", "rms_norm",
    "scalar_tensor", "softmax", "sort", "stack", "std", "sum", "swapaxes", "take_along_dim", "tensor_split", "tile",
    "topk", "tril", "triu", "unflatten", "unfold", "upsample_bicubic2d", "upsample_linear1d", "upsample_nearest1d",
    "upsample_trilinear3d", "var", "var_mean", "view_as", "where", "zero_",
})
# fmt: on
"""Operators of aten that hold no product of matrices and that PyTorch does not tag as pointwise."""


def _known_free(name: str) -> bool:
    """Whether an operator that the counter has no formula for works by element, reduces, pools, or only moves data."""
    namespace, _, base = name.partition("::")
    if namespace != "aten":
        return False
    packet = getattr(torch.ops.aten, base, None)
    if base in _FREE or packet is None:
        return base in _FREE
    return any(torch.Tag.pointwise in getattr(packet, overload).tags for overload in packet.overloads())
