"""Weights of convolutions in the blocked layout that oneDNN's kernels read, made once instead of at every call.

Of one image through a deployed OverLoCK-T (112 ms on two cores) 19 ms went to reordering weights, and to framing
depthwise kernels in zeros. The price is memory: a model that has run on a CPU holds its convolutions' weights twice.

A weight that is edited is packed again. An edit in place through `.data` (or numpy) passes PyTorch's count of changes
by: it is seen if it moves one of 8 elements spread over the weight, as scaling or overwriting the whole does. Reading
those takes 0.2 % of a forward pass of OverLoCK-XT at batch 1 on one core; comparing all weights would take 12 %. After
an edit of a few elements through `.data`, call `torch.autograd.graph.increment_version(model.parameters())`; an edit of
the tensor itself, under `torch.no_grad()`, is always seen.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from overlock.depthwise.native import taps_of

SAMPLE = 8
_prepacked = WeakTensorKeyDictionary()
"""Weight -> (its state when it was packed, the packed weight, its data then), for as long as the weight lives. The last
keeps the memory, which it shares, so that no other `.data` comes to lie at the same address."""


def prepacked(weight: Tensor, x: Tensor, size: int, stride: int, groups: int) -> Tensor:
    """`weight` (O, I, k, k), framed in zeros to `size`, in the layout of oneDNN's kernel for maps like x (B, C, H, W).

    It is packed for the first map that it meets; for maps of other sizes oneDNN reorders it where it must. A weight
    that has changed is packed again. One made in inference mode keeps no count of its changes, and is never packed, nor
    is one with gaps in memory.
    """
    if not _may_be_kept(weight):
        return _framed(weight, size)

    def pack() -> Tensor:
        out: Tensor = torch.ops.mkldnn._reorder_convolution_weight(
            _framed(weight, size), [size // 2] * 2, [stride] * 2, [1, 1], groups, list(x.shape)
        )
        return out

    return _kept(weight, (size, stride, groups), pack)


def packed_taps(weight: Tensor) -> Tensor:
    """A depthwise `weight` (C, 1, k, k) as the C kernel reads it (`overlock.depthwise.native`); kept likewise."""
    if not _may_be_kept(weight):
        return taps_of(weight)
    return _kept(weight, ("taps",), lambda: taps_of(weight))


def _may_be_kept(weight: Tensor) -> bool:
    dense = weight.is_contiguous() or weight.is_contiguous(memory_format=torch.channels_last)
    return dense and not weight.is_inference()


def _kept(weight: Tensor, kind: tuple[object, ...], pack: Callable[[], Tensor]) -> Tensor:
    count = weight.numel()
    sample = weight.as_strided((min(count, SAMPLE),), (max(1, count // SAMPLE),)).tolist()
    now = (weight.data_ptr(), weight._version, sample, weight.dtype, *kind)
    entry = _prepacked.get(weight)
    if entry is None or entry[0] != now:
        entry = _prepacked[weight] = (now, pack(), weight.detach())
    kernel: Tensor = entry[1]
    return kernel


def _framed(weight: Tensor, size: int) -> Tensor:
    frame = (size - weight.shape[-1]) // 2
    return F.pad(weight, [frame] * 4) if frame else weight
