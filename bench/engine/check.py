"""What must hold before anything is measured, as far as torch is needed to tell."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.cli import BadInput
from bench.engine.job import Settings
from bench.loading import create_on_meta, load_weights, resolve
from bench.machine.device import choose_device
from bench.machine.environment import collect


def check(request: dict[str, Any]) -> dict[str, Any]:
    """Check `{"models": [...], "settings": {...}}`; returns the device chosen and the environment.

    Raises:
        BadInput: for an unknown model or backend, a device that is not there, or another model's checkpoint.
    """
    settings = Settings.from_dict(request["settings"])
    import_modules(settings.imports)
    device = choose_device(settings.device, request.get("dtypes", [settings.dtype]))
    if settings.compile == "cudagraph" and not device.startswith("cuda"):
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


def check_backend(name: str) -> None:
    """Raises BadInput if there is no ContMix implementation of that name."""
    from overlock.contmix import BACKENDS

    if name != "auto" and name not in BACKENDS:
        raise BadInput(f"--backend {name}: ContMix has {', '.join(BACKENDS)}; or give auto")
