"""What must hold before anything is measured, as far as torch is needed to tell."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.cli import BadInput
from bench.engine.request import Settings
from bench.engine.tasks import task_of
from bench.loading import resolve
from bench.machine.device import choose_device
from bench.machine.environment import collect
from bench.tasks import head_of


def check(
    models: Sequence[str],
    settings: Mapping[str, Any],
    dtypes: Sequence[str],
    task: str = "classification",
    head: str = "",
) -> dict[str, Any]:
    """Check what is asked (`settings` as a dict); returns the `device` chosen and the `environment`.

    Raises:
        BadInput: for an unknown model or backend, a device that is not there, or another model's checkpoint.
    """
    asked = Settings.from_dict(settings)
    import_modules(asked.imports)
    device = choose_device(asked.device, dtypes)
    if asked.compile == "cudagraph" and not device.startswith("cuda"):
        raise BadInput(f"--compile cudagraph needs a CUDA device, and this runs on {device}")
    entries = {name: resolve(name) for name in models}
    check_backend(asked.backend)
    for name, path in asked.weights.items():
        task_of(task).check_weights(entries[name], head_of(task, head), Path(path))
    return {"device": device, "environment": collect(device, asked.threads)}


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
        except (Exception, SystemExit) as error:  # whatever a user's module does
            raise BadInput(f"--import {name}: it raises {type(error).__name__}: {error}; mend the module") from error


def check_backend(name: str) -> None:
    """Raises BadInput if there is no ContMix implementation of that name."""
    from overlock.contmix import BACKENDS

    if name != "auto" and name not in BACKENDS:
        raise BadInput(f"--backend {name}: ContMix has {', '.join(BACKENDS)}; or give auto")
