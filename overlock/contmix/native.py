"""ContMix on a CPU by a C kernel (`overlock/native`): one head of one image at a time, in the cache from end to end.

Nothing is made per query and tap beyond four queries' weights, neither forward nor backward. What it saves for the
backward are its inputs; the softmax weights are made again.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from overlock import native
from overlock.contmix.inputs import Inputs, window_size

DTYPES = (torch.float32, torch.bfloat16)


def why_not(value: Tensor) -> str | None:
    """The reason why the kernel cannot run on values like these, or None where it can."""
    if value.device.type != "cpu":
        return f"it runs on a CPU, these are on {value.device.type}"
    if value.dtype not in DTYPES:
        return f"it computes in float32 for float32 and bfloat16, these are {value.dtype}"
    return native.why_not()


class _Contmix(ctypes.Structure):
    """`Contmix` of contmix_head.h."""

    _fields_ = (
        ("q", ctypes.c_void_p),
        ("v", ctypes.c_void_p),
        ("projected", ctypes.c_void_p),
        ("proj_bias", ctypes.c_void_p),
        ("rpb", ctypes.c_void_p * 2),
        ("biases", ctypes.c_void_p),
        *((name, ctypes.c_long) for name in ("batch", "heads", "cq", "c", "height", "width")),
        ("sizes", ctypes.c_long * 2),
        ("bf16", ctypes.c_int),
        ("threads", ctypes.c_int),
    )


class _Gradients(ctypes.Structure):
    """`Gradients` of contmix_backward.h."""

    _fields_ = (
        ("out", ctypes.c_void_p),
        ("q", ctypes.c_void_p),
        ("v", ctypes.c_void_p),
        ("projected", ctypes.c_void_p),
        ("proj_bias", ctypes.c_void_p),
        ("rpb", ctypes.c_void_p * 2),
    )


class _Call:
    """The kernel's view of ContMix's arguments, and the tensors that it points into."""

    def __init__(self, inputs: Inputs, scale: float) -> None:
        query, key, value = inputs[:3]
        batch, channels, height, width = value.shape
        self.heads = inputs.rpb1.shape[0]
        self.sizes = [window_size(inputs.rpb1), window_size(inputs.rpb2)]
        self.keys = key.reshape(batch * query.shape[1], -1).float().mul(scale)  # B*Cq, R
        q, v = (x.contiguous(memory_format=torch.channels_last) for x in (query, value))
        with torch.autocast("cpu", enabled=False):
            projected = self.keys @ inputs.proj_weight.float().t()  # B*Cq, T: (B*G, cq, T)
        proj_bias, rpb1, rpb2 = (x.float().contiguous() for x in inputs[4:])
        self.kept = (q, v, projected, proj_bias, rpb1, rpb2)
        self.struct = _Contmix(
            *(native.pointer(x) for x in (q, v, projected, proj_bias)),
            (ctypes.c_void_p * 2)(rpb1.data_ptr(), rpb2.data_ptr()),
            None,
            batch,
            self.heads,
            query.shape[1] // self.heads,
            channels // 2 // self.heads,
            height,
            width,
            (ctypes.c_long * 2)(*self.sizes),
            value.dtype == torch.bfloat16,
            torch.get_num_threads(),
        )


def biases(proj_bias: Tensor, rpb1: Tensor, rpb2: Tensor) -> Tensor:
    """The three tables of biases, dense float32, as the kernel looks them up: they are the same for every image."""
    struct = _Contmix(
        proj_bias=proj_bias.data_ptr(),
        rpb=(ctypes.c_void_p * 2)(rpb1.data_ptr(), rpb2.data_ptr()),
        heads=rpb1.shape[0],
        sizes=(ctypes.c_long * 2)(window_size(rpb1), window_size(rpb2)),
        threads=1,
    )
    out = torch.empty(native.count("all_biases_floats", ctypes.byref(struct)), dtype=torch.float32)
    native.call("fill_biases", ctypes.byref(struct), native.pointer(out))
    return out


def forward(inputs: Inputs, scale: float) -> Tensor:
    """ContMix: (B, C, H, W), channels_last."""
    call = _Call(inputs, scale)
    out = torch.empty_like(inputs.value, memory_format=torch.channels_last)
    native.call("contmix_forward", ctypes.byref(call.struct), native.pointer(out))
    return out


def backward(grad: Tensor, inputs: Inputs, scale: float) -> Inputs:
    """The gradients of the seven tensors."""
    query, key, value, proj_weight, proj_bias, rpb1, rpb2 = inputs
    call = _Call(inputs, scale)
    batch, heads, taps = value.shape[0], call.heads, proj_bias.shape[0]
    grad = grad.contiguous(memory_format=torch.channels_last)
    d_query, d_value = (torch.empty_like(x, memory_format=torch.channels_last) for x in (query, value))
    d_projected = torch.empty(batch * query.shape[1], taps, dtype=torch.float32)
    d_bias = torch.empty(batch * heads, taps, dtype=torch.float32)
    d_rpb = [torch.empty(batch, *x.shape, dtype=torch.float32) for x in (rpb1, rpb2)]
    gradients = _Gradients(
        *(native.pointer(x) for x in (grad, d_query, d_value, d_projected, d_bias)),
        (ctypes.c_void_p * 2)(*(x.data_ptr() for x in d_rpb)),
    )
    native.call("contmix_backward", ctypes.byref(call.struct), ctypes.byref(gradients))
    with torch.autocast("cpu", enabled=False):
        d_key = (d_projected @ proj_weight.float()).mul_(scale)
        d_weight = d_projected.t() @ call.keys
    d_rpb1, d_rpb2 = (table.sum(0).to(rpb1.dtype) for table in d_rpb)
    return Inputs(
        d_query,
        d_key.to(key.dtype).view(key.shape),
        d_value,
        d_weight.to(proj_weight.dtype),
        d_bias.sum(0).to(proj_bias.dtype),
        d_rpb1,
        d_rpb2,
    )
