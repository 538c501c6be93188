"""ContMix alone, at the map of OverLoCK-T's third stage and at one four times as large, by implementation."""

from __future__ import annotations

from typing import Any

ROUNDS = 10
BACKENDS = ("reference", "tiled", "native")
MAPS = (14, 28)


class ContMix:
    """Seconds of a call of one image (8 heads, kernel 17): one process a round, the median of its calls."""

    version = "1"
    params = (BACKENDS, MAPS)
    param_names = ("backend", "map")
    timeout = 300

    def setup_cache(self) -> dict[str, float]:
        import torch
        from torch.utils.benchmark import Timer

        from bench.machine.environment import physical_cores
        from overlock.contmix import BACKENDS as THERE
        from overlock.contmix import contmix

        threads = physical_cores()
        found = {}
        for side in MAPS:
            inputs = _inputs(side)
            for backend in BACKENDS:
                if backend not in THERE or THERE[backend].supports(*inputs[:3]) is not None:
                    continue
                timer = Timer(
                    "contmix(*inputs, 0.2, backend=backend)",
                    globals={"contmix": contmix, "inputs": inputs, "backend": backend},
                    num_threads=threads,
                )
                with torch.inference_mode():
                    found[f"{backend} {side}"] = float(timer.blocked_autorange(min_run_time=0.3).median)
        return found

    def setup(self, found: dict[str, float], backend: str, side: int) -> None:
        if f"{backend} {side}" not in found:
            raise NotImplementedError(f"{backend} cannot run here")

    def track_seconds(self, found: dict[str, float], backend: str, side: int) -> dict[str, object]:
        return {"samples": [found[f"{backend} {side}"]], "number": 1}

    track_seconds.unit = "seconds"  # type: ignore[attr-defined]
    track_seconds.rounds = ROUNDS  # type: ignore[attr-defined]


def _inputs(side: int) -> list[Any]:
    """The operator's seven tensors for one image, 8 heads, 256 query and 512 value channels, kernels 5 and 17."""
    import torch

    if side < 17:
        side = 17  # the model enlarges smaller maps to the kernel
    batch, heads, small, large, regions = 1, 8, 5, 17, 7

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(0))

    def channels_last(*shape: int) -> torch.Tensor:
        return random(*shape).contiguous(memory_format=torch.channels_last)

    taps = small**2 + large**2
    return [
        channels_last(batch, 256, side, side),
        random(batch, 256, regions, regions),
        channels_last(batch, 512, side, side),
        random(taps, regions**2) / regions,
        random(taps),
        random(heads, 2 * small - 1, 2 * small - 1),
        random(heads, 2 * large - 1, 2 * large - 1),
    ]
