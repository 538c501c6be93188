"""What must hold before anything is measured, as far as torch is needed to tell."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bench.cli import BadInput
from bench.engine.job import Settings
from bench.engine.subject import create_on_meta, load_weights, resolve
from bench.machine.environment import collect


def check(request: dict[str, Any]) -> dict[str, Any]:
    """Check `{"models": [...], "settings": {...}}`; returns the device chosen and the environment.

    Raises:
        BadInput: for an unknown model or backend, a device that is not there, or another model's checkpoint.
    """
    settings = Settings.from_dict(request["settings"])
    import_modules(settings.imports)
    device = choose_device(settings.device)
    on_cuda = device.startswith("cuda")
    if "tf32" in request.get("dtypes", [settings.dtype]) and not on_cuda:
        raise BadInput(f"--dtype tf32 needs a CUDA device, and this runs on {device}: give float32")
    if settings.compile == "cudagraph" and not on_cuda:
        raise BadInput(f"--compile cudagraph needs a CUDA device, and this runs on {device}")
    entries = {name: resolve(name) for name in request["models"]}
    check_backend(settings.backend)
    classifiers = request.get("task", "classification") == "classification"  # other tasks check where they load
    for name, path in settings.weights.items() if classifiers else ():
        entry = entries[name]
        load_weights(create_on_meta(entry, **entry.family.structure.get("train", {})), name, Path(path))
    return {"device": device, "environment": collect(device, settings.threads)}


def import_modules(names: Sequence[str]) -> None:
    """Import modules that register models with timm.

    Raises:
        BadInput: for one that cannot be imported, saying why.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise BadInput(f"--import {name}: {error}; is its folder on PYTHONPATH?") from error


def choose_device(asked: str) -> str:
    """`auto` -> CUDA if there is any, else the CPU.

    Raises:
        BadInput: if the device asked for is not there.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if asked == "auto":
        return "cuda" if count else "cpu"
    if asked.startswith("cuda"):
        if not count:
            build = "" if torch.version.cuda else f", and this PyTorch ({torch.__version__}) is built without it"
            raise BadInput(f"--device {asked}: there is no CUDA device here{build}; give --device cpu")
        index = int(asked.partition(":")[2] or 0)
        if index >= count:
            raise BadInput(f"--device {asked}: there are {count} CUDA devices, numbered from 0")
    if asked == "mps" and not torch.backends.mps.is_available():
        raise BadInput("--device mps: there is no MPS device here; give --device cpu")
    return asked


def check_backend(name: str) -> None:
    """Raises BadInput if there is no ContMix implementation of that name."""
    from overlock.contmix import BACKENDS

    if name != "auto" and name not in BACKENDS:
        raise BadInput(f"--backend {name}: ContMix has {', '.join(BACKENDS)}; or give auto")
