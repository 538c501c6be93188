"""Top-1 error of released weights, where `BENCH_IMAGENET` names the validation images (as bench.top1's --data)."""

from __future__ import annotations

VARIABLE = "BENCH_IMAGENET"
MODELS = ("overlock_t", "unireplknet_t", "moganet_t", "convnext_t")


class Top1:
    """Percent of images whose best class is not the label."""

    version = "1"
    params = (MODELS,)
    param_names = ("model",)
    timeout = 6 * 3600

    def setup(self, model: str) -> None:
        import os

        if not os.environ.get(VARIABLE):
            raise NotImplementedError(f"{VARIABLE} names no data")

    def track_error(self, model: str) -> float:
        import json
        import os
        import subprocess
        import sys

        from bench.cli import last_line

        command = [sys.executable, "-m", "bench.top1", "--models", model, "--data", os.environ[VARIABLE]]
        done = subprocess.run([*command, "--format", "json"], capture_output=True, errors="replace", check=False)
        if done.returncode:  # asv shows the end of what is raised: that it failed would be all
            raise RuntimeError(f"{VARIABLE}: {last_line(done.stderr)}")
        (value,) = [r["value"] for r in json.loads(done.stdout)["records"] if r["metric"] == "top1"]
        return 100.0 - float(value)

    track_error.unit = "%"  # type: ignore[attr-defined]
