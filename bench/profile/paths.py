"""The operators and kernels that really ran, from PyTorch's profiler: what a setting like `auto` chose."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.engine.speed import Work

SHARE = 0.01
"""Operators with a smaller share of the time are left out."""


def ran(work: Work) -> dict[str, float]:
    """Operators (on CUDA, kernels) of one call with their shares of its time, the largest first."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    from bench.machine.clock import synchronise

    device = work.subject.device
    on_cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]
    with profile(activities=activities, acc_events=True) as profiler:
        work.call(0)
        synchronise(device)
    times: Counter[str] = Counter()
    for event in profiler.key_averages():
        time = event.self_device_time_total if on_cuda else event.self_cpu_time_total
        if time > 0 and not (on_cuda and event.device_type != torch.autograd.DeviceType.CUDA):
            times[event.key[:80]] += time
    total = sum(times.values())
    return {name: round(time / total, 4) for name, time in times.most_common() if time >= SHARE * total}


def depthwise_path(shares: dict[str, float]) -> str:
    """The library that ran the convolutions, in a word or two; empty if there is none among `shares`."""
    marks = {
        "overlock::rep_conv_block": "C kernels",
        "overlock::dynamic_conv_block": "C kernels",
        "mkldnn_convolution": "oneDNN",
        "mkldnn::_convolution_pointwise": "oneDNN, fused",
        "onednn": "oneDNN",
        "_slow_conv2d": "slow_conv2d",
        "thnn_conv2d": "slow_conv2d",
        "conv_depthwise2d": "native depthwise",
        "depthwise_kernel": "Triton",
        "cudnn": "cuDNN",
        "fft": "FFT",
    }
    return ", ".join(dict.fromkeys(word for name in shares for mark, word in marks.items() if mark in name))
