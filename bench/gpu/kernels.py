"""A part of the GPU run: where the time of eager OverLoCK-T goes, by kernel and by kind of kernel (docs/gpu.md).

It stands beside the model of where the time goes, and decides what is fused next. Experimental: it has not run on
a GPU.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence

from bench.gpu.configurations import OVERLOCK, requests
from bench.gpu.parts import arguments
from bench.gpu.sink import Sink, sink
from bench.metrics import THROUGHPUT
from bench.render import table

KINDS = {
    "ContMix": r"small_kernel|shared_kernel|sliding_kernel",
    "large depthwise, Triton": r"^depthwise_(last_)?kernel|place_kernel",
    "fusions, Triton": r"^(up|middle|down|norm|squeeze|gate)_kernel",
    "depthwise": r"depthwise|dgrouped|grouped|conv2d_c1_k1|dw",
    "GELU, SiLU": r"gelu|silu|sigmoid",
    "reductions": r"reduce|norm|softmax",
    "elementwise": r"elementwise|CUDAFunctor|copy|cat|fill",
    "products and convolutions": r"gemm|cutlass|sm90|sm80|xmma|implicit|conv|cudnn|nvjet",
}
"""Kinds of kernels by marks in their names, the first that fits."""

TOP, CALLS = 30, 3


def kind_of(kernel: str) -> str:
    """The kind of a kernel by its name."""
    return next((kind for kind, marks in KINDS.items() if re.search(marks, kernel, re.IGNORECASE)), "other")


def report(seconds: Mapping[str, float], launches: Mapping[str, int]) -> str:
    """Two tables of a call's time: by kind, and the longest kernels. `seconds` and `launches` are of one call."""
    total = sum(seconds.values())
    kinds: dict[str, float] = {}
    counts: Counter[str] = Counter()
    for name, time in seconds.items():
        kinds[kind_of(name)] = kinds.get(kind_of(name), 0.0) + time
        counts[kind_of(name)] += launches[name]
    rows = [
        (kind, counts[kind], f"{1e3 * time:.3f}", f"{time / total:.1%}")
        for kind, time in sorted(kinds.items(), key=lambda one: -one[1])
    ]
    longest = sorted(seconds, key=lambda name: -seconds[name])[:TOP]
    kernels = [
        (name[:100].replace("|", "/"), launches[name], f"{1e3 * seconds[name]:.3f}", f"{seconds[name] / total:.1%}")
        for name in longest
    ]
    heading = f"{sum(launches.values())} launches, {1e3 * total:.2f} ms of kernels a call"
    return "\n\n".join([
        heading,
        table(("kind", "launches", "ms", "share"), rows, "markdown"),
        table(("kernel", "launches", "ms", "share"), kernels, "markdown"),
    ]) + "\n"  # fmt: skip


def profiled(part: Sink) -> str:
    """The report of an eager call of OverLoCK-T."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    from bench.engine import speed, subject
    from bench.machine.clock import synchronise

    (side,) = requests([OVERLOCK._replace(compile="none")], part, THROUGHPUT)
    work = speed.Inference(subject.prepare(side))
    for i in range(3):
        work.call(i)
    synchronise(work.subject.device)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        for i in range(CALLS):
            work.call(i)
        synchronise(work.subject.device)
    seconds: dict[str, float] = {}
    launches: dict[str, int] = {}
    for event in profiler.key_averages():
        if event.device_type == torch.autograd.DeviceType.CUDA and event.self_device_time_total > 0:
            seconds[event.key] = event.self_device_time_total / 1e6 / CALLS
            launches[event.key] = event.count // CALLS
    return report(seconds, launches)


def main(argv: Sequence[str] | None = None) -> int:
    part = sink(arguments("bench.gpu.kernels").parse_args(argv))
    text = profiled(part)
    part.tell(file="kernels.md", text=text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
