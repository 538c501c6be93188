"""The ways to run a model that the GPU run measures, and what is asked of the engine for each. Imports no torch.

Experimental: none of them has run on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bench.engine.request import Request, Settings
from bench.gpu import simulation
from bench.gpu.parts import DEPTHWISE, FUSIONS_VARIABLE, depthwise_variable
from bench.gpu.sink import Sink


class Configuration(NamedTuple):
    """One way to run a model."""

    model: str
    form: str
    backend: str  # ContMix's
    compile: str
    depthwise: str = "torch"  # what runs large depthwise convolutions: torch, triton, padded, or the measured winners
    layout: str = "channels_last"
    fusions: str = "none"  # of folded blocks, by Triton: none, all, or names of `overlock.inference.fusions`

    @property
    def name(self) -> str:
        """The model and form, and how they run."""
        return f"{self.model} {self.form} ({self.backend}, {self.compile}, {self.layout}, {self.note})"

    @property
    def note(self) -> str:
        """What a record has no field for."""
        return f"{DEPTHWISE} {self.depthwise}" + (f", fusions: {self.fusions}" if self.fusions != "none" else "")

    @property
    def compiled(self) -> bool:
        """Whether a compiler makes its code, which takes a process most of a minute even from the cache."""
        return self.compile not in ("none", "cudagraph")


OVERLOCK = Configuration("overlock_t", "deploy", "fused", "cudagraph")
CONVNEXT = Configuration("convnext_b", "deploy", "auto", "cudagraph")
HEADLINE: tuple[Configuration, ...] = (
    OVERLOCK,
    CONVNEXT,
    OVERLOCK._replace(depthwise="triton", fusions="all"),
    OVERLOCK._replace(depthwise="winners", fusions="all"),
    OVERLOCK._replace(depthwise="triton", fusions="mlp"),
    OVERLOCK._replace(depthwise="padded"),
    OVERLOCK._replace(depthwise="triton"),
    CONVNEXT._replace(layout="channels_first"),
    CONVNEXT._replace(compile="default"),
    OVERLOCK._replace(compile="default", depthwise="triton"),
)
"""The first two are compared before anything else is tried; then the others, the most promising first."""
FUSED = 2
"""Of `HEADLINE`: the side with most kernels of Triton's; all but the padded convolutions are among them."""

COMPILED: tuple[Configuration, ...] = (
    OVERLOCK._replace(compile="default", depthwise="triton"),
    CONVNEXT._replace(compile="default"),
    OVERLOCK._replace(compile="default"),
)
PLAIN: tuple[Configuration, ...] = (
    OVERLOCK,
    OVERLOCK._replace(form="train", backend="reference", compile="default"),  # the plain form
    OVERLOCK._replace(backend="tiled"),  # for the case that fused ContMix fails
    CONVNEXT._replace(compile="none"),
)
TRAINING_SIDES: tuple[Configuration, ...] = (
    Configuration("overlock_xt", "train", "fused", "none"),
    Configuration("convnext_t", "deploy", "auto", "none"),
    Configuration("overlock_xt", "train", "fused", "none", "triton"),
    Configuration("convnext_t", "deploy", "auto", "none", layout="channels_first"),
)
COMPILED_TRAINING: tuple[Configuration, ...] = (
    Configuration("overlock_xt", "train", "fused", "default", "triton"),
    Configuration("convnext_t", "deploy", "auto", "default"),
    Configuration("overlock_xt", "train", "fused", "default"),
)
TINY: tuple[Configuration, ...] = (
    Configuration("overlock_xt", "deploy", "tiled", "none"),
    Configuration("convnext_t", "deploy", "auto", "none"),
    Configuration("overlock_xt", "deploy", "reference", "none"),
)
TINY_TRAINING: tuple[Configuration, ...] = (
    Configuration("overlock_xt", "train", "tiled", "none"),
    Configuration("convnext_t", "deploy", "auto", "none"),
)


def requests(configurations: Sequence[Configuration], part: Sink, kind: str) -> list[Request]:
    """What is asked of the engine: bfloat16, batch 256, 224x224."""
    batch = 2 if part.tiny else 256
    size = (64, 64) if part.tiny else (224, 224)
    dtype = "float32" if part.tiny else "bfloat16"
    python, process = "", "fork"
    if simulation.running():
        from bench.gpu.simulation.worker import interpreter

        python, process = interpreter(), "exec"
    return [
        Request(
            kind=kind,
            model=c.model,
            form=c.form,
            resolution=size,
            settings=Settings(
                device=part.device, dtype=dtype, batch=batch, backend=c.backend, compile=c.compile,
                layout=c.layout, process=process,
            ),
            label=c.name,
            python=python,
            env={**depthwise_variable(part.folder, c.depthwise), FUSIONS_VARIABLE: c.fusions},
        )
        for c in configurations
    ]  # fmt: skip
