"""The model under measurement: cast, placed and laid out as a request asks, with inputs to go with it."""

from __future__ import annotations

import logging
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.cli import BadInput
from bench.engine.request import Request
from bench.engine.tasks import task_of
from bench.loading import resolve
from bench.machine.clock import synchronise
from bench.machine.environment import CUDNN_BENCHMARK
from bench.metrics import TRAINING
from bench.project import project
from overlock.checkpoints.loading import not_finite
from overlock.checkpoints.reading import shown
from overlock.contmix import BackendsSeen

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LAYOUTS = {"channels_first": torch.contiguous_format, "channels_last": torch.channels_last}
INPUT_BYTES = 64 * 2**20
"""Inputs rotate over at least this much memory, more than the caches of most machines hold."""


@dataclass
class Subject:
    """A model on its device, and the inputs that a measurement cycles through."""

    model: nn.Module
    images: list[Tensor]
    device: torch.device
    layout: str

    def call(self, i: int) -> Any:
        return self.model(self.images[i % len(self.images)])

    def lay_out(self, layout: str) -> None:
        """Put weights and inputs into `layout`."""
        self.layout = layout
        self.model = self.model.to(memory_format=LAYOUTS[layout])
        self.images = [x.contiguous(memory_format=LAYOUTS[layout]) for x in self.images]


def place(
    model: nn.Module, device: str, dtype: str, layout: str, batch: int, resolution: tuple[int, int], seed: int
) -> Subject:
    """Move a model to its device, dtype (cast, not autocast) and layout, and draw its inputs.

    `tf32` is float32 whose matrix products and convolutions may round to TF32 on CUDA; `float32` never does. cuDNN
    tries its algorithms at the first call of a size and keeps the quickest, for every model alike.
    """
    allow_tf32 = dtype == "tf32"
    torch.set_float32_matmul_precision("high" if allow_tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = allow_tf32
    torch.backends.cudnn.benchmark = CUDNN_BENCHMARK
    model = _cast(model, DTYPES[dtype]).to(device)
    generator = torch.Generator().manual_seed(seed + 1)
    shape = (batch, 3, *resolution)
    size = math.prod(shape) * DTYPES[dtype].itemsize
    count = min(16, max(2, -(-INPUT_BYTES // size)))
    images = [torch.randn(shape, generator=generator).to(device=device, dtype=DTYPES[dtype]) for _ in range(count)]
    subject = Subject(model, images, torch.device(device), layout)
    subject.lay_out(layout)
    return subject


def _cast(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Raises BadInput for finite weights that the dtype cannot hold."""
    if dtype.itemsize < torch.float32.itemsize:
        lost = [
            name for name, value in model.state_dict().items() if not_finite(value, value.new_empty(0, dtype=dtype))
        ]
        if lost:
            raise BadInput(f"--dtype {str(dtype).removeprefix('torch.')} cannot hold the weights: {shown(lost)}")
    return model.to(dtype=dtype)


def prepare(request: Request) -> Subject:
    """What a request asks for: loaded, cast, placed, and with gradients if training is to be timed."""
    s, task, training = request.settings, task_of(request.task), request.kind == TRAINING
    if training and not task.trains:
        raise ValueError(f"no training step of {request.task} is timed: leave the metric training out")
    model = task.load(resolve(request.model), request)
    if training and getattr(model, "aux_head", 0) is None:
        assert request.checkpoint, "a form for inference only is not trained"
        weights = f"{request.model}={request.checkpoint}"
        raise BadInput(f"--weights {weights} has no auxiliary head: leave the metric training out")
    layout = "channels_first" if s.layout == "auto" else s.layout  # until the faster one is known
    subject = place(model, s.device, s.dtype, layout, request.images, request.resolution, s.seed)
    if training:
        subject.model.train().requires_grad_(True)
    return subject


def compiled(subject: Subject, mode: str) -> None:
    """Have the subject run compiled: by `torch.compile` in a mode of its own, or on CUDA replayed as one graph."""
    if mode == "cudagraph":
        subject.model = GraphedModel(subject.model, subject.images[0])
    elif mode != "none":
        subject.model = torch.compile(subject.model, mode=None if mode == "default" else mode)  # type: ignore[assignment]


class GraphedModel(nn.Module):
    """A model's inference captured as one CUDA graph: a call copies its input in and replays it."""

    def __init__(self, model: nn.Module, image: Tensor) -> None:
        super().__init__()
        self.model = model
        self._input = image.clone()
        stream = torch.cuda.Stream(image.device)
        stream.wait_stream(torch.cuda.current_stream(image.device))
        with torch.cuda.stream(stream), torch.inference_mode():
            for _ in range(3):  # kernels are chosen and workspaces taken before the capture
                model(self._input)
        torch.cuda.current_stream(image.device).wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.inference_mode(), torch.cuda.graph(self._graph):
            self._output = model(self._input)

    def forward(self, image: Tensor) -> Any:
        self._input.copy_(image)
        self._graph.replay()
        return self._output


def sources() -> dict[str, str]:
    """Where the project's packages (`bench.project`) were imported from, of those that were."""
    modules = {name: sys.modules[name] for name in project().packages if name in sys.modules}
    return {name: str(Path(m.__file__).resolve().parent.parent) for name, m in modules.items() if m.__file__}


@dataclass(frozen=True)
class Checked:
    """Why outputs cannot be trusted, which implementation of ContMix ran (empty: none), and the last call's seconds."""

    problems: tuple[str, ...] = ()
    backend: str = ""
    seconds: float = math.inf


def check(subject: Subject) -> Checked:
    """Two calls, looked at: their outputs, and which implementation of ContMix ran."""
    with BackendsSeen() as seen, torch.inference_mode():
        first = subject.call(0)
        synchronise(subject.device)
        begin = time.perf_counter()
        second = subject.call(1)
        synchronise(subject.device)
        seconds = time.perf_counter() - begin
    return Checked(check_outputs(first, second), seen.label, seconds)


def check_outputs(*outputs: Any) -> tuple[str, ...]:
    """Why the outputs of two inputs cannot be trusted: not finite, or the same for both. Empty if they can."""
    first, second = map(_flat, outputs)
    if not (first.isfinite().all() and second.isfinite().all()):
        return ("outputs are not finite",)
    if (first - second).abs().max() <= 1e-3 * first.abs().max():
        return ("outputs do not depend on the input",)
    return ()


def _flat(out: Any) -> Tensor:
    """All numbers of an output, whatever it is made of, as one vector."""
    if isinstance(out, Tensor):
        return out.float().reshape(-1)
    parts = [_flat(part) for part in (out.values() if isinstance(out, dict) else out)]
    return torch.cat(parts) if parts else torch.zeros(0)
