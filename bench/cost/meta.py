"""Counting without computing: what lets fvcore's counter run on the meta device, and run quickly.

Two facts of PyTorch's tracer, under fvcore's counter: it leaves `convolution` to the kernels below, and on the meta
device no kernel below it records one, so that every convolution would be missing from the trace, unseen. And each
integer argument becomes a node of the trace, which takes longer than all the rest.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from fvcore.nn.jit_handles import conv_flop_count, get_shape
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

CONVOLUTION = "overlock_bench::convolution"

_library = torch.library.Library("overlock_bench", "DEF")
_library.define("convolution(Tensor input, Tensor weight, str shape, bool transposed) -> Tensor")
_library.impl("convolution", lambda input, weight, shape, transposed: input.new_empty(json.loads(shape)), "Meta")

_TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
_CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d, *_TRANSPOSED)


def convolution_macs(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """fvcore's handle for the recorded convolution: fvcore's own count, from its shapes."""
    shapes = (get_shape(value) for value in (*inputs[:2], *outputs))
    return Counter(conv=conv_flop_count(*shapes, transposed=inputs[3].toIValue()))


class RecordedConvolutions(TorchFunctionMode):
    """Within it, each convolution is one node of the trace that its shapes and its kind can be read from."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in _CONVOLUTIONS:
            return func(*args, **kwargs)
        tracing = torch._C._get_tracing_state()
        torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
        try:  # not traced: in a trace sizes are tensors, and nothing of this call is to be in it
            shape = json.dumps([*func(*args, **kwargs).shape])
        finally:
            torch._C._set_tracing_state(tracing)  # type: ignore[attr-defined]
        tensors = [*args[:2], *(kwargs[name] for name in ("input", "weight") if name in kwargs)]
        return torch.ops.overlock_bench.convolution(*tensors, shape, func in _TRANSPOSED)


class Flat(nn.Module):
    """A model as one module: its trace takes half the time where every module would open a scope of its own.

    Its tensors are registered here, since the tracer must know them.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.__dict__["model"] = model  # not as a submodule
        for i, parameter in enumerate(model.parameters()):
            self.register_parameter(f"parameter{i}", parameter)
        for i, buffer in enumerate(model.buffers()):
            self.register_buffer(f"buffer{i}", buffer)

    def forward(self, images: Tensor) -> Any:
        return self.__dict__["model"](images)


class RememberedShapes(TorchDispatchMode):
    """Within it, the meta kernel of one operator on one set of shapes runs once: networks repeat their blocks."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[Any, Any] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func._schema.is_mutable or not _on_meta((args, kwargs)):
            return func(*args, **kwargs)
        key = _key((func, args, *kwargs.items()))
        if key not in self._known:
            out = func(*args, **kwargs)
            if not _on_meta(out):
                return out
            self._known[key] = out
        return tree_map_only(Tensor, _like, self._known[key])


def _on_meta(tree: Any) -> bool:
    return all(x.is_meta for x in tree_leaves(tree) if isinstance(x, Tensor))


def _key(value: Any) -> Any:
    """A hashable description of a call's arguments, tensors by shape."""
    if isinstance(value, Tensor):
        return value.dtype, tuple(value.shape), value.stride()
    if isinstance(value, list | tuple):
        return tuple([_key(v) for v in value])
    return type(value), value  # 1, 1.0 and True are equal, and promote differently


def _like(x: Tensor) -> Tensor:
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")
