"""Weights of convolutions in the blocked layout that oneDNN's kernels read, made once instead of at every call.

Of one image through a deployed OverLoCK-T (112 ms on two cores) 19 ms went to reordering weights, and to framing
depthwise kernels in zeros. The price is memory: a model that has run on a CPU holds its convolutions' weights twice,
and some of them three times where one image and several take kernels of different layouts. Left in the layout for eight
images, they were reordered at each call of one image, by a slow path: 242 ms of OverLoCK-T's with AVX2.

A weight that is edited is packed again. An edit in place through `.data` (or numpy) passes PyTorch's count of changes
by: it is seen if it moves one of 8 elements spread over the weight, as scaling or overwriting the whole does. Reading
those takes 0.2 % of a forward pass of OverLoCK-XT at batch 1 on one core; comparing all weights would take 12 %. After
an edit of a few elements through `.data`, call `torch.autograd.graph.increment_version(model.parameters())`; an edit of
the tensor itself, under `torch.no_grad()`, is always seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from overlock.depthwise.native import taps_of

SAMPLE = 8
MAPS = 64
"""Sizes of maps that a weight remembers its layout for."""


@dataclass(frozen=True)
class _Packed:
    """A weight, its state when it was packed, its data then, and what it was packed to, by the map's size.

    The data keeps the memory, which it shares, so that no other `.data` comes to lie at the same address.
    """

    weight: weakref.ref[Tensor]
    state: tuple[object, ...]
    data: Tensor
    by_map: dict[tuple[int, ...], Tensor] = field(default_factory=dict)


_prepacked: dict[int, _Packed] = {}
"""By the weight's `id`, for as long as it lives. (PyTorch's WeakTensorKeyDictionary takes 6 us to find one.)"""


def prepacked(weight: Tensor, x: Tensor, size: int, stride: int, groups: int) -> Tensor:
    """`weight` (O, I, k, k), framed in zeros to `size`, in the layout of oneDNN's kernel for maps like x (B, C, H, W).

    It is packed for each size of maps that it meets, and kept once for each layout. A weight that has changed is packed
    again. One made in inference mode keeps no count of its changes, and is never packed, nor
    is one with gaps in memory.
    """
    if not _may_be_kept(weight):
        return _framed(weight, size)

    def pack() -> Tensor:
        out: Tensor = torch.ops.mkldnn._reorder_convolution_weight(
            _framed(weight, size), [size // 2] * 2, [stride] * 2, [1, 1], groups, list(x.shape)
        )
        return out

    return _kept(weight, (size, stride, groups), (len(x), *x.shape[2:]), pack)


def packed_taps(weight: Tensor) -> Tensor:
    """A depthwise `weight` (C, 1, k, k) as the C kernel reads it (`overlock.depthwise.native`); kept likewise."""
    if not _may_be_kept(weight):
        return taps_of(weight)
    return _kept(weight, ("taps",), (), lambda: taps_of(weight))


def _may_be_kept(weight: Tensor) -> bool:
    dense = weight.is_contiguous() or weight.is_contiguous(memory_format=torch.channels_last)
    return dense and not weight.is_inference()


def _kept(weight: Tensor, kind: tuple[object, ...], of: tuple[int, ...], pack: Callable[[], Tensor]) -> Tensor:
    """What `pack` makes of a weight for maps of a size."""
    count = weight.numel()
    sample = weight.as_strided((min(count, SAMPLE),), (max(1, count // SAMPLE),)).tolist()
    now = (weight.data_ptr(), weight._version, sample, weight.dtype, *kind)
    entry = _prepacked.get(id(weight))
    if entry is None or entry.weight() is not weight or entry.state != now:
        entry = _prepacked[id(weight)] = _Packed(weakref.ref(weight, _forgetting(id(weight))), now, weight.detach())
    kernel = entry.by_map.get(of)
    if kernel is None:
        if len(entry.by_map) >= MAPS:
            entry.by_map.clear()
        kernel = pack()
        alike = (one for one in entry.by_map.values() if _layout(one) == _layout(kernel))
        kernel = entry.by_map[of] = next(alike, kernel)
    return kernel


def _forgetting(key: int) -> Callable[[weakref.ref[Tensor]], None]:
    def forget(gone: weakref.ref[Tensor]) -> None:
        entry = _prepacked.get(key)
        if entry is not None and entry.weight is gone:
            del _prepacked[key]

    return forget


def _layout(packed: Tensor) -> bytes:
    """How oneDNN lays a packed weight out."""
    description: Tensor = torch.ops.mkldnn._get_mkldnn_serialized_md(packed)
    return description.numpy().tobytes()


def _framed(weight: Tensor, size: int) -> Tensor:
    frame = (size - weight.shape[-1]) // 2
    return F.pad(weight, [frame] * 4) if frame else weight
