"""Faults planted in a copy of the packages, each by replacing a piece of one source file."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.paths import REPOSITORY


@dataclass(frozen=True)
class Fault:
    """In `file`, `old` becomes `new`; the gate on `model` must then exit with `code` and name `metrics`."""

    file: str
    old: str
    new: str
    metrics: tuple[str, ...]
    model: str = "moganet_xt"
    code: int = 1


EXACT = {
    "one more channel in a block": Fault(
        "baselines/moganet.py",
        "ChannelAggregation(channels, channels * mlp_ratio)",
        "ChannelAggregation(channels, channels * mlp_ratio + 1)",
        ("params", "state_dict", "macs", "logits", "memory"),
    ),
    "MACs of convolutions off by 2 %": Fault(
        "bench/cost/meta.py",
        "conv=conv_flop_count(",
        "conv=1.02 * conv_flop_count(",
        ("macs",),
    ),
    "MACs of ContMix off by 2 %": Fault(
        "overlock/contmix/cost.py",
        "tokens, heads = height * width, rpb1[0]",
        "tokens, heads = height * width * 102 // 100, rpb1[0]",
        ("macs",),
        "overlock_xt",
    ),
    "a key is not loaded": Fault(
        "overlock/checkpoints/loading.py",
        "model.load_state_dict(state, strict=True)",
        "model.load_state_dict(dict(list(state.items())[1:]), strict=False)",
        ("loaded", "logits"),
    ),
    "20 % more memory": Fault(
        "baselines/moganet.py",
        "        return self.forward_head(self.forward_features(x))",
        "        more = None if x.is_meta else x.new_empty(1_150_000)  # alive until the end\n"
        "        return self.forward_head(self.forward_features(x)) if more is None or len(more) else x",
        ("memory",),
    ),
    "outputs 0.001 higher": Fault(
        "baselines/moganet.py",
        "        return self.forward_head(self.forward_features(x))",
        "        return self.forward_head(self.forward_features(x)) + 1e-3",
        ("logits",),
    ),
    "a model that cannot run": Fault(
        "baselines/moganet.py",
        "        return self.forward_head(self.forward_features(x))",
        "        raise RuntimeError('planted')",
        ("failed",),
        code=2,
    ),
}


def copy_with(fault: Fault | None, folder: Path) -> Path:
    """The packages and results in `folder`, with the fault planted."""
    for name in ("overlock", "baselines", "bench"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "results").mkdir()
    for path in (REPOSITORY / "results").glob("*.csv"):
        shutil.copy(path, folder / "results")
    shutil.copy(REPOSITORY / "pyproject.toml", folder)
    if fault is not None:
        path = folder / fault.file
        text = path.read_text(encoding="utf-8")
        assert text.count(fault.old) == 1, f"{fault.file} has changed: plant the fault elsewhere"
        path.write_text(text.replace(fault.old, fault.new), encoding="utf-8")
    return folder


def gate(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m bench.gate` of the packages in `folder`."""
    command = [sys.executable, "-m", "bench.gate", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
