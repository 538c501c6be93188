"""Fingerprints: of a state dict's names and shapes, of logits, and of the memory that a call allocates."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from bench.gates.fixed import signs

DIRECTIONS = 3


def state_dict(state: Mapping[str, Tensor]) -> str:
    """Number of tensors, and a hash of their names, shapes and dtypes in order."""
    text = "".join(f"{name} {tuple(t.shape)} {t.dtype}\n" for name, t in state.items())
    return f"{len(state)} tensors {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def logits(values: Tensor) -> str:
    """A few numbers that any change of the logits (B, classes) moves.

    Root mean square; sum and products with fixed directions of signs, over the root of the count: each is of the size
    of one logit, and moves with noise as little as one logit does.
    """
    flat = values.double().flatten()
    root = math.sqrt(len(flat))
    numbers = [flat.square().mean().sqrt().item(), flat.sum().item() / root]
    numbers += [(flat @ signs(i, len(flat))).item() / root for i in range(DIRECTIONS)]
    return " ".join(f"{number:.12g}" for number in numbers)


def allocated_peak(model: nn.Module, images: Tensor) -> int:
    """Bytes that live at most, above the loaded model, during a second call: all that torch's allocator hands out.

    With one thread this is the same on every run, unlike the resident set of a process, which depends on what the C
    library keeps; it leaves out what a library such as oneDNN takes for itself.
    """
    assert torch.get_num_threads() == 1, "the number of threads decides the size of some workspaces"
    with torch.inference_mode():
        model(images)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            model(images)
    assert profiler.profiler is not None
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    assert events, "the profiler saw no allocation"
    live = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak
