"""ContMix alone, at the map of OverLoCK-T's third stage and at one four times as large, by implementation."""

from __future__ import annotations

ROUNDS = 10
BACKENDS = ("reference", "tiled", "native")
MAPS = (14, 28)  # of images of 224 and 448 pixels a side


class ContMix:
    """Seconds of a call for one image: one process a round, the median of its calls."""

    version = "2"
    params = (BACKENDS, MAPS)
    param_names = ("backend", "map")
    timeout = 300

    def setup_cache(self) -> dict[str, float]:
        import torch
        from torch.utils.benchmark import Timer

        from bench.machine.environment import physical_cores
        from overlock.contmix import BACKENDS as THERE
        from overlock.contmix import contmix
        from overlock.shapes import contmix_shapes

        threads = physical_cores()
        seconds = {}
        for side in MAPS:
            shape = contmix_shapes("overlock_t", 16 * side, 16 * side)["stage 3"]
            inputs = shape.inputs()
            for backend in BACKENDS:
                if backend not in THERE or THERE[backend].why_not(inputs.value) is not None:
                    continue
                timer = Timer(
                    "contmix(*inputs, scale, backend=backend)",
                    globals={"contmix": contmix, "inputs": inputs, "scale": shape.scale, "backend": backend},
                    num_threads=threads,
                )
                with torch.inference_mode():
                    seconds[f"{backend} {side}"] = float(timer.blocked_autorange(min_run_time=0.3).median)
        return seconds

    def setup(self, seconds: dict[str, float], backend: str, side: int) -> None:
        if f"{backend} {side}" not in seconds:
            raise NotImplementedError(f"{backend} cannot run here")

    def track_seconds(self, seconds: dict[str, float], backend: str, side: int) -> dict[str, object]:
        return {"samples": [seconds[f"{backend} {side}"]], "number": 1}

    track_seconds.unit = "seconds"  # type: ignore[attr-defined]
    track_seconds.rounds = ROUNDS  # type: ignore[attr-defined]
