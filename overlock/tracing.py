"""What decides how an operator runs: the switch to PyTorch's public operators alone, for exporters, and autocast."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy

_exporting = False
_separate = False


@contextlib.contextmanager
def exporting() -> Iterator[None]:
    """Within it, only PyTorch's public operators are called: no custom ones, and no fused ones of the CPU's library."""
    global _exporting
    before, _exporting = _exporting, True
    try:
        yield
    finally:
        _exporting = before


@contextlib.contextmanager
def separate_operators() -> Iterator[None]:
    """Within it, folded blocks run operator by operator on a CPU, for whoever looks at operators."""
    global _separate
    before, _separate = _separate, True
    try:
        yield
    finally:
        _separate = before


def is_separate() -> bool:
    return _separate


def followed() -> str | None:
    """The reason why operators must be PyTorch's own, one by one: who follows them; None where nobody does."""
    compiled = torch.compiler.is_compiling()
    watched = compiled or is_watched()
    if _exporting or (watched and torch.onnx.is_in_onnx_export()):
        return "exported, in public operators alone"
    if compiled:
        return "traced, for a compiler to fuse"
    return "traced or counted, operator by operator" if watched else None


def is_exporting() -> bool:
    """Whether the code runs within `exporting`, or is followed by whoever's `torch.onnx.export`."""
    return _exporting or ((torch.compiler.is_compiling() or is_watched()) and torch.onnx.is_in_onnx_export())


def is_captured() -> bool:
    """Whether operators are captured in a graph, for an exporter or by a compiler: it must serve any batch."""
    return is_exporting() or torch.compiler.is_compiling()


def is_watched() -> bool:
    """Whether a tracer, a counter or a fake tensor follows each operator: kernels unknown to it would get lost."""
    return torch.jit.is_tracing() or torch._C._len_torch_dispatch_stack() > 0


def is_symbolic(x: Tensor | Proxy) -> bool:
    """Whether torch.fx follows a name instead of a tensor: no size can be asked for."""
    return isinstance(x, Proxy)


def as_one_node(module: nn.Module, *inputs: Any) -> Any:
    """What a module's forward returns to torch.fx, whose graph then calls the module as a whole.

    Its operators depend on sizes and on where they run, which a graph of names cannot.
    """
    tracer = inputs[0].tracer
    return tracer.create_proxy("call_module", tracer.path_of_module(module), inputs, {})


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def why_not_read(layer: nn.Module) -> str | None:
    """The reason why a layer must be called, or None where its weight may be read instead.

    Adapters, parametrisations, pruning, quantisation and hooks act when a layer is called, and are lost otherwise.
    """
    home = type(layer).__module__
    if not home.startswith(("torch.nn.modules.", "timm.layers.", "overlock.", "baselines.")):
        return f"is a {home}.{type(layer).__qualname__}"
    if any(getattr(layer, hooks) for hooks in HOOKS):
        return "has hooks"
    return "has another forward" if "forward" in layer.__dict__ else None


def under_autocast(device_type: str) -> bool:
    """Whether autocast is on for this kind of device (the meta device has none, and cannot be asked)."""
    return device_type != "meta" and torch.is_autocast_enabled(device_type)


def eager_autograd() -> bool:
    """Whether gradients are recorded by eager autograd, not by a tracer or compiler: our own backwards serve there."""
    return torch.is_grad_enabled() and not (is_captured() or torch.jit.is_tracing())


def differentiable(
    function: Callable[..., Tensor | Sequence[Tensor]], inputs: Sequence[Tensor], *grads: Tensor
) -> tuple[Tensor, ...]:
    """The gradients of what `function` of PyTorch's operators makes of `inputs`, which can be differentiated again.

    For the backward of a kernel, where gradients are recorded in it (`create_graph`).
    """
    given = [x if x.requires_grad else x.detach().requires_grad_() for x in inputs]
    return torch.autograd.grad(function(*given), given, grads, create_graph=True)
