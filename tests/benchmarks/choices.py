r"""Whether what is chosen on a CPU is the fastest: each choice and its alternatives in turn, in one process.

    python -m tests.benchmarks.choices
    OVERLOCK_ISA=avx2 ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 \
        python -m tests.benchmarks.choices

A line is a shape: what is taken, its time over that of the fastest, each the least of the rounds, and all times.
It exits with 1 where that is more than 1.05. Half a minute on two cores.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

import timm
import torch
from torch import Tensor, nn

import overlock
from overlock import VARIANTS, native
from overlock.contmix import BACKENDS, choose_backend
from overlock.depthwise import native as depthwise_native
from overlock.depthwise.parallel import fast_size
from overlock.inference.prepacked import packed_taps, prepacked
from overlock.shapes import DepthwiseShape, contmix_shapes, depthwise_shapes
from overlock.tracing import separate_operators

ROUNDS = 9
LIMIT = 1.05
Forms = dict[str, Callable[[], object]]


def contmix_choices(batch: int) -> Iterator[tuple[str, str, Forms]]:
    shapes = {shape for name in VARIANTS for shape in contmix_shapes(name, 224, 224, batch).values()}
    for shape in sorted(shapes, key=str):
        inputs = shape.inputs()
        grad = torch.ones_like(inputs.value)
        names = [name for name in ("native", "tiled") if BACKENDS[name].why_not(inputs.value) is None]
        chosen = choose_backend("auto", inputs.value)
        yield (
            f"ContMix {shape}",
            chosen,
            {name: partial(BACKENDS[name].forward, inputs, shape.scale) for name in names},
        )
        yield (
            f"ContMix backward {shape}",
            chosen,
            {name: partial(BACKENDS[name].backward, grad, inputs, shape.scale) for name in names},
        )


def onednn(x: Tensor, weight: Tensor, size: int) -> Tensor:
    """The convolution in a frame of zeros, of `size`."""
    channels = x.shape[1]
    kernel = prepacked(weight, x, size, 1, channels)
    out: Tensor = torch.ops.mkldnn._convolution_pointwise(
        x, kernel, None, [size // 2] * 2, [1, 1], [1, 1], channels, "none", [], "none"
    )
    return out


def by_kernel(x: Tensor, weight: Tensor) -> Tensor:
    return depthwise_native.convolve(x, packed_taps(weight), None)


def depthwise_choices(batch: int) -> Iterator[tuple[str, str, Forms]]:
    shapes = {shape for name in ("overlock_t", "overlock_b") for shape in depthwise_shapes(name, 224, 224).values()}
    shapes |= {DepthwiseShape(s.channels, s.height, s.width, k) for s in shapes for k in (3, 5)}
    for shape in sorted(shapes, key=str):
        x = torch.randn(batch, shape.channels, shape.height, shape.width).contiguous(memory_format=torch.channels_last)
        weights = [torch.randn(shape.channels, 1, shape.kernel, shape.kernel) for _ in range(3)]
        forms: Forms = {"oneDNN": partial(onednn, x, weights[0], shape.kernel)}
        if depthwise_native.why_not(x, shape.kernel) is None:
            forms["native"] = partial(by_kernel, x, weights[1])
        size, chosen = fast_size(x, shape.kernel), "oneDNN"
        if size != shape.kernel:
            chosen = f"oneDNN {size}x{size}"
            forms[chosen] = partial(onednn, x, weights[2], size)
        if depthwise_native.preferred(x, shape.kernel):
            chosen = "native"
        yield f"depthwise {batch}x{shape.channels}x{shape.height} k{shape.kernel}", chosen, forms


def block_choices(batch: int) -> Iterator[tuple[str, str, Forms]]:
    """Blocks as one call, and operator by operator."""
    for name in ("overlock_xt", "overlock_t"):
        model = overlock.deploy(timm.create_model(name).eval())
        met: dict[str, list[Tensor]] = {}

        def keep(path: str, met: dict[str, list[Tensor]]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
            return lambda _module, maps: met.update({path: [x.clone() for x in maps]})

        paths = [f"{stage}.0" for stage in ("blocks1", "blocks2", "blocks3", "blocks4", "sub_blocks3", "sub_blocks4")]
        hooks = [model.get_submodule(path).register_forward_pre_hook(keep(path, met)) for path in paths]
        model(torch.randn(batch, 3, 224, 224))
        for hook in hooks:
            hook.remove()
        for path in paths:
            block = model.get_submodule(path)
            forms: Forms = {"one call": partial(block, *met[path]), "operators": partial(separately, block, met[path])}
            yield f"{name} {path}, batch {batch}", "one call", forms


def separately(block: nn.Module, maps: list[Tensor]) -> object:
    with separate_operators():
        return block(*maps)


def seconds(form: Callable[[], object]) -> float:
    start = time.perf_counter()
    form()
    return time.perf_counter() - start


def in_turn(forms: Forms, first: int) -> dict[str, float]:
    """The time of each, beginning with another one in every round: the first one finds its map outside the cache."""
    names = list(forms)
    return {name: seconds(forms[name]) for name in (*names[first % len(names) :], *names[: first % len(names)])}


def main() -> int:
    isa = native.isa() if native.why_not() is None else f"none ({native.why_not()})"
    print(f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}, kernels {isa}")
    slower = 0
    with torch.inference_mode():
        for batch in (8, 1):
            for what, chosen, forms in (*block_choices(batch), *contmix_choices(batch), *depthwise_choices(batch)):
                rounds = [in_turn(forms, first) for first in range(ROUNDS + 2)][2:]
                times = {name: min(taken[name] for taken in rounds) for name in forms}
                ratio = times[chosen] / min(times.values())
                slower += ratio > LIMIT
                shown = ", ".join(f"{name} {1e3 * t:.2f}" for name, t in times.items())
                verdict = "SLOWER" if ratio > LIMIT else "ok"
                print(f"{verdict:6} {ratio:.2f} {what:36} {chosen:8} {shown} ms", flush=True)
    return int(slower > 0)


if __name__ == "__main__":
    sys.exit(main())
