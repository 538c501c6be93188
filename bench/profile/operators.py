"""Each operator that a call of a model dispatches: its place, time, MACs, weights, activations and bytes.

Operators are watched as they run, in the form, layout and implementation in use; ContMix is one operator. The time is
that of the operator alone: the interpreter takes a little more between operators.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from bench.machine.clock import synchronise

if TYPE_CHECKING:
    from bench.engine.subject import Subject

CONTMIX, DEPTHWISE, POINTWISE, CONVOLUTION = "ContMix", "depthwise", "pointwise", "other convolution"
PRODUCT, NORM, OTHER = "matrix product", "norm", "other"
BETWEEN = "between stages"

NUMBERED = ("stages", "downsample_layers", "layers")
"""Containers whose members are stages; the containers are none."""

_PRIMITIVE: set[Any] = set()
"""Operators that are not composed of others, as far as seen."""

_NORM_NAME = re.compile(r"norm|grn", re.IGNORECASE)


@dataclass
class Operator:
    """One operator of a call. Amounts are of the whole batch; `seconds` has one sample for each timed call."""

    name: str
    stage: str
    kind: str
    macs: int = 0
    params: int = 0
    activations: int = 0
    bytes: int = 0
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Seconds of a call."""
        return median(self.seconds)


@torch.inference_mode()
def operators(subject: Subject, calls: int) -> list[Operator]:
    """The operators of a call, in their order, timed over `calls` calls after two calls that warm up.

    Raises:
        ValueError: if two calls dispatch different operators.
    """
    with _places(subject.model) as places:

        def watched(i: int, counting: bool = False) -> list[Operator]:
            watch = _Watch(subject, places, counting)
            with watch:
                subject.call(i)
            return watch.seen

        watched(0)  # fills the caches that a size has
        seen = watched(1, counting=True)
        for i in range(calls):
            again = watched(i + 2)
            if [op.name for op in again] != [op.name for op in seen]:
                raise ValueError("two calls dispatch different operators: their times cannot be put together")
            for op, timed in zip(seen, again, strict=True):
                op.seconds += timed.seconds
    return seen


@contextmanager
def _places(model: nn.Module) -> Iterator[list[tuple[str, str]]]:
    """Within it, the list holds the modules that are running as (stage, class name), the innermost last."""
    stack: list[tuple[str, str]] = []
    places = {module: (_stage(name), type(module).__name__) for name, module in model.named_modules() if name}

    def enter(module: nn.Module, _inputs: Any) -> None:
        if module in places:
            stack.append(places[module])

    def leave(module: nn.Module, _inputs: Any, _output: Any) -> None:
        if module in places:
            stack.pop()

    # of all modules: hooks of a layer's own would keep its weight from being read
    entering = register_module_forward_pre_hook(enter)
    leaving = register_module_forward_hook(leave, always_call=True)
    try:
        yield stack
    finally:
        entering.remove()
        leaving.remove()


def _stage(name: str) -> str:
    first, *rest = name.split(".")
    return f"{first}.{rest[0]}" if first in NUMBERED and rest else first


class _Watch(TorchDispatchMode):
    def __init__(self, subject: Subject, places: list[tuple[str, str]], counting: bool) -> None:
        super().__init__()
        self.seen: list[Operator] = []
        self._places, self._counting, self._device = places, counting, subject.device
        self._weights = dict(_weights(subject.model))
        self._known = set(self._weights)
        self._made: list[Tensor] = []  # kept, so that no other tensor gets its memory and is taken for it

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in _PRIMITIVE and not _is_view(func):  # conv2d, ...: their parts are watched
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
            _PRIMITIVE.add(func)
        synchronise(self._device)
        begin = time.perf_counter()
        out = func(*args, **kwargs)
        synchronise(self._device)
        seconds = time.perf_counter() - begin
        stage, module = self._places[-1] if self._places else (BETWEEN, "")
        op = Operator(str(func), stage, OTHER, seconds=[seconds])
        if self._counting:
            tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
            op.kind = kind_of(func, args, module, self._known)
            op.macs = macs_of(func, args, kwargs, out)
            outputs = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
            op.params = 0 if _is_view(func) else self._use(tensors, outputs if not op.macs else [])
            op.activations = sum(x.numel() for x in outputs) if op.macs else 0
            op.bytes = 0 if _is_view(func) else _bytes(tensors, outputs)
            op.seconds = []
        self.seen.append(op)
        return out

    def _use(self, inputs: list[Tensor], outputs: list[Tensor]) -> int:
        """How many weights an operator is the first to use. One that only turns weights into other weights passes them
        on."""
        mine = [_storage(x) for x in inputs]
        count = sum(self._weights.pop(storage, 0) for storage in set(mine) & self._weights.keys())
        if count and len(outputs) == 1 and all(storage in self._known for storage in mine):
            self._weights[_storage(outputs[0])] = count
            self._known.add(_storage(outputs[0]))
            self._made.append(outputs[0])
            return 0
        return count


def _weights(model: nn.Module) -> Iterator[tuple[int, int]]:
    """Storage -> number of values, for parameters and for a folded model's buffers, without batch statistics."""
    for module in model.modules():
        statistics = isinstance(module, nn.modules.batchnorm._NormBase)
        held = [*module.parameters(recurse=False), *(() if statistics else module.buffers(recurse=False))]
        for tensor in held:
            if tensor.is_floating_point():
                yield _storage(tensor), tensor.numel()


def _storage(x: Tensor) -> int:
    return x.untyped_storage().data_ptr() if x.layout == torch.strided else id(x)


def _bytes(inputs: list[Tensor], outputs: list[Tensor]) -> int:
    """Bytes read and written; a tensor that is both input and output counts twice."""
    read = {_storage(x): x.numel() * x.element_size() for x in inputs}
    return sum(read.values()) + sum(x.numel() * x.element_size() for x in outputs)


def _is_view(func: Any) -> bool:
    """Whether an operator only views memory in another way, or only allocates it."""
    returns = func._schema.returns
    aliases = any(r.alias_info is not None and not r.alias_info.is_write for r in returns)
    return aliases or func._schema.name in ("aten::empty", "aten::empty_strided", "aten::detach", "aten::empty_like")


def _convolution(func: Any, args: tuple[Any, ...]) -> tuple[Tensor, Tensor] | None:
    """Input and kernel of a convolution, PyTorch's or oneDNN's fused one; None for any other operator."""
    name = func._schema.name
    if "convolution" not in name or "backward" in name:
        return None
    first = 1 if name.endswith("_convolution_pointwise_") else 0  # the first argument is the tensor that it adds to
    return args[first], args[first + 1]


def kind_of(func: Any, args: tuple[Any, ...], module: str, weights: set[int]) -> str:
    """The kind of an operator. A 1x1 convolution or a linear layer is pointwise; a matrix product has no weights."""
    name = func._schema.name
    if "contmix" in name:
        return CONTMIX
    convolution = _convolution(func, args)
    if convolution is not None:
        x, weight = convolution
        if weight.shape[1] == 1 < x.shape[1]:
            return DEPTHWISE
        return POINTWISE if all(side == 1 for side in weight.shape[2:]) else CONVOLUTION
    if func._overloadpacket in flop_registry:
        learnt = any(isinstance(x, Tensor) and _storage(x) in weights for x in args)
        return POINTWISE if learnt else PRODUCT
    return NORM if _NORM_NAME.search(name) or _NORM_NAME.search(module) else OTHER


def macs_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:
    """Multiply-adds of convolutions, matrix products and ContMix at the shapes that ran; 0 for any other operator."""
    convolution = _convolution(func, args)
    if convolution is not None:
        x, weight = convolution
        transposed = len(args) > 6 and args[6] is True
        spread = x if transposed else next(y for y in tree_leaves(out) if isinstance(y, Tensor))
        return int(spread.numel() * weight[0].numel())
    formula = flop_registry.get(func._overloadpacket)
    return int(formula(*args, **kwargs, out_val=out)) // 2 if formula is not None else 0
