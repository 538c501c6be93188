"""The device that a command runs on: one check for all of them."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from bench.cli import BadInput


def choose_device(asked: str, dtypes: Sequence[str] = ()) -> str:
    """The torch device for `--device`: for `auto`, CUDA where there is any, else the CPU.

    For `auto` and `cuda`, each process that torchrun started takes a GPU of its own.

    Args:
        asked: `auto`, `cpu`, `mps`, `cuda` or `cuda:N`.
        dtypes: the names of dtypes that will be used; `tf32` needs CUDA.

    Raises:
        BadInput: if the device is not there, or cannot compute in one of `dtypes`.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    device = ("cuda" if count else "cpu") if asked == "auto" else asked
    if device.startswith("cuda"):
        if not count:
            build = "" if torch.version.cuda else f", and this PyTorch ({torch.__version__}) is built without it"
            raise BadInput(f"--device {asked}: there is no CUDA device here{build}; give --device cpu")
        if device == "cuda" and "LOCAL_RANK" in os.environ:
            device = f"cuda:{int(os.environ['LOCAL_RANK']) % count}"
            torch.cuda.set_device(device)
        if int(device.partition(":")[2] or 0) >= count:
            raise BadInput(f"--device {asked}: there are {count} CUDA devices, numbered from 0")
    elif "tf32" in dtypes:
        raise BadInput(f"--dtype tf32 needs a CUDA device, and this runs on {device}: give float32")
    if device == "mps" and not torch.backends.mps.is_available():
        raise BadInput("--device mps: there is no MPS device here; give --device cpu")
    return device


def autocast(device: str, dtype: torch.dtype | None) -> torch.autocast:
    """Autocast on a device: what runs in it computes in `dtype` where that is safe; None: as it would without."""
    return torch.autocast(device.partition(":")[0], dtype=dtype or torch.bfloat16, enabled=dtype is not None)
