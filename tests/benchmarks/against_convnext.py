r"""Every deployed variant against ConvNeXt-B in its faster layout, in one process, the models' calls in turn.

    python -m tests.benchmarks.against_convnext
    OVERLOCK_ISA=avx2 ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 \
        python -m tests.benchmarks.against_convnext

A ratio is ConvNeXt-B's time over the variant's, of each round: its median, smallest and largest. A minute on two cores.
A batch after another one in the same process is not what a process of its own measures: see docs/contmix.md.
"""

from __future__ import annotations

import argparse
import statistics
import time

import timm
import torch
from torch import Tensor, nn

import overlock
from bench.machine.environment import cpu_name
from overlock import VARIANTS, native

BASELINES = ("convnext_b NCHW", "convnext_b channels_last")


def models() -> dict[str, nn.Module]:
    """The variants as they are deployed, and the baseline in both layouts."""
    found: dict[str, nn.Module] = {name: overlock.deploy(timm.create_model(name).eval()) for name in VARIANTS}
    for name in BASELINES:
        found[name] = timm.create_model("convnext_base").eval()
    found[BASELINES[1]].to(memory_format=torch.channels_last)
    return found


def seconds(model: nn.Module, images: Tensor) -> float:
    start = time.perf_counter()
    model(images)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[8])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    isa = native.isa() if native.why_not() is None else f"none ({native.why_not()})"
    print(f"{cpu_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}", end=", ")
    print(f"{torch.backends.cpu.get_cpu_capability()}, kernels {isa}; float32, 224x224")
    timed = models()
    with torch.inference_mode():
        for batch in options.batch:
            images = torch.randn(batch, 3, 224, 224)
            inputs = {name: images for name in timed}
            inputs[BASELINES[1]] = images.contiguous(memory_format=torch.channels_last)
            rounds = [{name: seconds(m, inputs[name]) for name, m in timed.items()} for _ in range(options.rounds + 1)]
            for name in timed:
                ratios = [min(taken[b] for b in BASELINES) / taken[name] for taken in rounds[1:]]
                milliseconds = 1e3 * statistics.median(taken[name] for taken in rounds[1:])
                spread = f"{min(ratios):.2f}..{max(ratios):.2f}"
                print(f"batch {batch} {name:25} {milliseconds:8.1f} ms  {statistics.median(ratios):.2f} ({spread})")


if __name__ == "__main__":
    main()
