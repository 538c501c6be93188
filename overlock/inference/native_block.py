"""Folded blocks by one C call each (`overlock/native/block.h`), on a CPU.

Operator by operator, what each of them takes to begin was a third of a forward pass of one image, and their maps went
through memory that was mapped afresh. The call reads weights that were packed before; the price is a second copy of
them. They are packed again where one was edited or exchanged. An edit through `.data` (or numpy) passes PyTorch's count
of changes by: it is seen if it moves one of 8 elements spread over a weight, as scaling or overwriting the whole does.
After an edit of a few elements through `.data`, call
`torch.autograd.graph.increment_version(model.parameters())`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from overlock import native
from overlock.contmix import enlarged_size
from overlock.contmix.native import biases as contmix_biases
from overlock.contmix.running import note
from overlock.depthwise.native import LONGEST, taps_of
from overlock.inference import fusions
from overlock.tracing import HOOKS, followed, is_separate

if TYPE_CHECKING:
    from overlock.inference.blocks import FoldedDynamicConvBlock, FoldedMLP, FoldedRepConvBlock, FoldedSE
    from overlock.inference.folded_conv import FoldedConv

DTYPES = (torch.float32, torch.bfloat16)
SAMPLE = 8
CHANNELS = 16  # what those before the context are a multiple of: whole vectors


def why_not(*maps: Tensor) -> str | None:
    """The reason why a block is not one call on these maps (B, C, H, W), or None where it may be."""
    x = maps[0]
    reason = followed()
    if reason is not None:
        return reason
    if x.device.type != "cpu":
        return f"on {x.device.type}"
    if x.dtype not in DTYPES or any(y.dtype != x.dtype for y in maps):
        return f"in {x.dtype}"
    if is_separate():
        return "asked for operator by operator"
    if fusions.asked():
        return f"{fusions.VARIABLE} asks for Triton's kernels"
    if torch.is_autocast_enabled("cpu"):
        return "under autocast"
    if torch.is_grad_enabled() and any(y.requires_grad for y in maps):
        return "a gradient is asked for"
    if x.numel() == 0 or not all(y.is_contiguous(memory_format=torch.channels_last) for y in maps):
        return "a map is empty or not channels_last"
    return native.why_not(x)


def _struct(name: str, *fields: tuple[str, Any]) -> type[ctypes.Structure]:
    return type(name, (ctypes.Structure,), {"_fields_": fields, "__doc__": f"`{name}` of block.h."})


def _of(kind: Any, *names: str) -> tuple[tuple[str, Any], ...]:
    return tuple((name, kind) for name in names)


_P, _L = ctypes.c_void_p, ctypes.c_long
_Linear = _struct("Linear", *_of(_P, "weights", "bias"), *_of(_L, "inputs", "outputs"))
_Depthwise = _struct("Depthwise2d", *_of(_P, "taps", "bias"), ("k", _L))
_Norm = _struct("Norm", *_of(_P, "weight", "bias"), ("eps", ctypes.c_float))
_Excitation = _struct("Excitation", *_of(_P, "down", "down_bias", "up", "up_bias"), ("inner", _L))
_Mlp = _struct("Mlp", *_of(_Linear, "up", "down"), ("dwconv", _Depthwise), ("gamma", _P))
_RepConv = _struct(
    "RepConv",
    ("channels", _L),
    *_of(_Depthwise, "dwconv", "large"),
    ("norm", _Norm),
    ("se", _Excitation),
    ("mlp", _Mlp),
    ("residual_scale", _P),
)
_DynamicConv = _struct(
    "DynamicConv",
    *_of(_L, "dim", "context"),
    *_of(_P, "context_scale", "prior_scale", "prior_shift"),
    *_of(_Depthwise, "dwconv1", "fusion_dw", "lepe", "dwconv2"),
    *_of(_Norm, "norm1", "norm2"),
    *_of(_Linear, "fusion_point", "gate", "query", "key", "taps", "dyconv_proj", "proj"),
    *_of(_P, "fusion_gamma", "fusion_beta", "biases"),
    ("heads", _L),
    ("sizes", _L * 2),
    ("se", _Excitation),
    ("mlp", _Mlp),
    *_of(_P, "residual_scale1", "residual_scale2"),
)
_Images = _struct("Images", *_of(_L, "batch", "height", "width"), *_of(ctypes.c_int, "bf16", "threads"))


class _Sample(ctypes.Structure):
    """`Sample` of watched.h."""

    _fields_ = (("at", ctypes.c_void_p), ("value", ctypes.c_uint32), ("bytes", ctypes.c_int))


@dataclass(frozen=True)
class _Packed:
    """A block's weights as the kernels read them, and what they were made of."""

    struct: ctypes.Structure
    dtype: torch.dtype
    isa: str
    modules: list[tuple[dict[str, Any], str, nn.Module]]
    parameters: list[tuple[dict[str, Any], str, Tensor, int, int]]  # with address and version
    samples: ctypes.Array[_Sample]
    kept: list[Tensor]

    def is_current(self) -> bool:
        for children, name, module in self.modules:
            if children.get(name) is not module or any(getattr(module, hooks) for hooks in HOOKS):
                return False
        for tensors, name, tensor, address, version in self.parameters:
            if tensors.get(name) is not tensor or tensor.data_ptr() != address or tensor._version != version:
                return False
        return self.isa == native.isa() and not native.count("samples_changed", self.samples, _L(len(self.samples)))


class Packing:
    """Weights of a block being packed for the C kernels."""

    def __init__(self) -> None:
        self.kept: list[Tensor] = []

    def floats(self, tensor: Tensor | None) -> int | None:
        """The address of its values, dense float32."""
        if tensor is None:
            return None
        self.kept.append(tensor.detach().float().contiguous())
        return self.kept[-1].data_ptr()

    def matrix(self, weight: Tensor, bf16: bool) -> int:
        """(O, I, 1, 1) or (O, I), packed for products of float32 or bfloat16."""
        dense = weight.detach().float().flatten(1).contiguous()
        sizes = [*map(_L, dense.shape), ctypes.c_int(bf16)]
        packed = torch.empty(native.count("packed_floats", *sizes))
        native.call("pack_product", native.pointer(dense), native.pointer(packed), *sizes)
        self.kept.append(packed)
        return packed.data_ptr()

    def linear(self, conv: FoldedConv, scale: float = 1, dtype: torch.dtype | None = None) -> ctypes.Structure:
        outputs, inputs = conv.weight.shape[:2]
        weight, bias = conv.weight.float() * scale, None if conv.bias is None else conv.bias.float() * scale
        return _Linear(
            self.matrix(weight, (dtype or conv.weight.dtype) == torch.bfloat16), self.floats(bias), inputs, outputs
        )

    def depthwise(self, conv: FoldedConv) -> ctypes.Structure:
        self.kept.append(taps_of(conv.weight))
        return _Depthwise(self.kept[-1].data_ptr(), self.floats(conv.bias), conv.weight.shape[-1])

    def norm(self, norm: nn.LayerNorm) -> ctypes.Structure:
        return _Norm(self.floats(norm.weight), self.floats(norm.bias), norm.eps)

    def excitation(self, se: FoldedSE) -> ctypes.Structure:
        tables = []
        for conv in (se.down, se.up):
            tables += [self.floats(conv.weight.flatten(1).t()), self.floats(conv.bias)]
        return _Excitation(*tables, se.down.weight.shape[0])

    def mlp(self, mlp: FoldedMLP) -> ctypes.Structure:
        up, down = self.linear(mlp.up), self.linear(mlp.down)
        return _Mlp(up, down, self.depthwise(mlp.dwconv), self.floats(mlp.grn.gamma))

    def rep_conv(self, block: FoldedRepConvBlock) -> ctypes.Structure:
        return _RepConv(
            block.dwconv.weight.shape[0],
            self.depthwise(block.dwconv),
            self.depthwise(block.large),
            self.norm(block.norm),
            self.excitation(block.se),
            self.mlp(block.mlp),
            self.floats(block.residual_scale),
        )

    def dynamic_conv(self, block: FoldedDynamicConvBlock) -> ctypes.Structure:
        contmix = block.contmix
        taps, regions = contmix.proj_weight.shape
        tables = [x.detach().float().contiguous() for x in (contmix.proj_bias, contmix.rpb1, contmix.rpb2)]
        sizes = [(table.shape[-1] + 1) // 2 for table in tables[1:]]
        return _DynamicConv(
            *contmix.dims,
            *(self.floats(x) for x in (block.context_scale, block.prior_scale, block.prior_shift)),
            *(self.depthwise(x) for x in (block.dwconv1, block.fusion_dw, block.lepe, block.dwconv2)),
            self.norm(block.norm1),
            self.norm(block.norm2),
            self.linear(block.fusion_point),
            self.linear(block.gate),
            self.linear(contmix.query),
            self.linear(contmix.key, contmix.scale, torch.float32),
            _Linear(self.matrix(contmix.proj_weight, False), None, regions, taps),
            self.linear(block.dyconv_proj),
            self.linear(block.proj),
            self.floats(block.fusion_grn.gamma),
            self.floats(block.fusion_grn.beta),
            self.floats(contmix_biases(*tables)),
            tables[1].shape[0],
            (_L * 2)(*sizes),
            self.excitation(block.se),
            self.mlp(block.mlp),
            self.floats(block.residual_scale1),
            self.floats(block.residual_scale2),
        )


def _samples(tensors: list[Tensor]) -> ctypes.Array[_Sample]:
    samples = []
    for tensor in tensors:
        size, count = tensor.element_size(), tensor.numel()
        for i in range(min(count, SAMPLE)):
            at = tensor.data_ptr() + i * max(1, count // SAMPLE) * size
            samples.append(_Sample(at, int.from_bytes(ctypes.string_at(at, size), "little"), size))
    return (_Sample * len(samples))(*samples)


def _packed(block: nn.Module, pack: Callable[[Packing], ctypes.Structure]) -> _Packed | None:
    """Its weights, packed now where they have changed; None where they cannot be kept, or a part has hooks."""
    packed: _Packed | None = block.__dict__.get("_packed")
    if packed is not None and packed.is_current():
        return packed
    modules = list(block.modules())
    parameters = [(m._parameters, name, p) for m in modules for name, p in m._parameters.items() if p is not None]
    kinds = {(p.dtype, p.device.type) for _, _, p in parameters}
    dtype = parameters[0][2].dtype
    dense = all(p.is_contiguous() or p.is_contiguous(memory_format=torch.channels_last) for _, _, p in parameters)
    if kinds != {(dtype, "cpu")} or not dense or any(p.is_inference() for _, _, p in parameters):
        return None
    if any(getattr(m, hooks) for m in modules[1:] for hooks in HOOKS):
        return None
    packing = Packing()
    packed = _Packed(
        pack(packing),
        dtype,
        native.isa(),
        [(m._modules, name, child) for m in modules for name, child in m._modules.items() if child is not None],
        [(tensors, name, p, p.data_ptr(), p._version) for tensors, name, p in parameters],
        _samples([p for _, _, p in parameters]),
        [*packing.kept, *(p.detach() for _, _, p in parameters)],  # no other tensor comes to lie at their addresses
    )
    block.__dict__["_packed"] = packed
    return packed


def _run(name: str, block: nn.Module, pack: Callable[[Packing], ctypes.Structure], *maps: Tensor) -> Tensor | None:
    x = maps[0]
    packed = None if _has_any_global_hook() else _packed(block, pack)
    if packed is None or packed.dtype != x.dtype:  # operator by operator PyTorch says what is wrong
        return None
    out = torch.empty_like(x)
    images = _Images(x.shape[0], *x.shape[2:], x.dtype == torch.bfloat16, torch.get_num_threads())
    size = native.count(f"{name}_bytes", ctypes.byref(packed.struct), ctypes.byref(images))
    between = torch.empty(size, dtype=torch.uint8)  # PyTorch's, so that a measurement of memory sees it
    addresses = [_P(y.data_ptr()) for y in (*maps, out, between)]

    def call() -> None:
        native.call(name, ctypes.byref(packed.struct), ctypes.byref(images), *addresses)

    if torch._C._autograd._profiler_enabled():
        with torch.profiler.record_function(f"overlock::{name}"):
            call()
    else:
        call()
    return out


def rep_conv_block(block: FoldedRepConvBlock, x: Tensor) -> Tensor | None:
    """The output of `block` (B, C, H, W); None where it must run operator by operator."""
    if why_not(x) is not None or block.large.weight.shape[-1] > LONGEST or x.shape[1] != len(block.large.weight):
        return None
    return _run("rep_conv_block", block, lambda packing: packing.rep_conv(block), x)


def dynamic_conv_block(block: FoldedDynamicConvBlock, joint: Tensor, prior: Tensor) -> Tensor | None:
    """The output of `block` (B, C + Cc, H, W); None where it must run operator by operator."""
    contmix = block.contmix
    if contmix.backend not in ("auto", "native") or why_not(joint, prior) is not None:
        return None
    batch, _, height, width = joint.shape
    dim, context = contmix.dims
    if joint.shape[1] != dim + context or prior.shape != (batch, context, height, width):
        return None
    if dim % CHANNELS or enlarged_size(height, width, contmix.kernel_size) is not None:
        return None
    out = _run("dynamic_conv_block", block, lambda packing: packing.dynamic_conv(block), joint, prior)
    if out is not None:
        note("native")
    return out
