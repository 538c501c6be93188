"""Cost, speed and memory of the families' smaller models."""

from __future__ import annotations

MODELS = ("overlock_t", "unireplknet_t", "moganet_t", "convnext_t")
RESOLUTION = (224, 224)
ROUNDS = 10
"""Of fresh processes: asv calls nothing different with fewer than 8 samples."""


class Cost:
    """Counted, not measured: one round."""

    version = "1"
    params = (MODELS,)
    param_names = ("model",)
    timeout = 600

    def setup_cache(self) -> dict[str, dict[str, int]]:
        import torch

        from bench.cost import count as cost
        from bench.gates.fingerprint import allocated_peak
        from bench.loading import counted_structure, load, resolve

        torch.set_num_threads(1)
        costs = {}
        for name in MODELS:
            entry = resolve(name)
            structure = counted_structure(entry, "deploy")
            costs[name] = {
                "params": cost.count_parameters(structure),
                "macs": cost.count_macs(structure, RESOLUTION).macs,
                "memory": allocated_peak(load(entry, "deploy", None, 0), torch.randn(1, 3, *RESOLUTION)),
            }
        return costs

    def track_params(self, costs: dict[str, dict[str, int]], model: str) -> int:
        return costs[model]["params"]

    def track_macs(self, costs: dict[str, dict[str, int]], model: str) -> int:
        return costs[model]["macs"]

    def track_memory(self, costs: dict[str, dict[str, int]], model: str) -> int:
        return costs[model]["memory"]

    track_params.unit = "parameters"  # type: ignore[attr-defined]
    track_macs.unit = "MACs"  # type: ignore[attr-defined]
    track_memory.unit = "bytes"  # type: ignore[attr-defined]


class Throughput:
    """Seconds for an image, by the engine of `bench.compare`: in a round each model gets a fresh process, in turn."""

    version = "1"
    params = (MODELS,)
    param_names = ("model",)
    timeout = 600

    def setup_cache(self) -> dict[str, float]:
        from bench.engine.interleaved import measure
        from bench.engine.plan import Plan
        from bench.engine.request import Request, Settings, automatic_batch
        from bench.machine.device import choose_device
        from bench.machine.environment import physical_cores

        device = choose_device("auto")
        batch = automatic_batch(device, RESOLUTION)
        settings = Settings(device=device, batch=batch, threads=physical_cores(), layout="channels_last")
        sides = [Request(model=name, form="deploy", resolution=RESOLUTION, settings=settings) for name in MODELS]
        # a disturbed round counts: asv has no word for it, and judges medians of many
        (outcome,) = measure(sides, plan=Plan(rounds=1, turns=2, block=0.3, warmup=1.0, canary_limit=float("inf")))
        seconds = {}
        for i, name in enumerate(MODELS):
            if not outcome.samples(i):
                raise RuntimeError(f"{name}: {'; '.join(outcome.failures[i])}")
            seconds[name] = float(outcome.samples(i)[0]) / batch
        return seconds

    def track_seconds(self, seconds: dict[str, float], model: str) -> dict[str, object]:
        return {"samples": [seconds[model]], "number": 1}

    track_seconds.unit = "seconds"  # type: ignore[attr-defined]
    track_seconds.rounds = ROUNDS  # type: ignore[attr-defined]
