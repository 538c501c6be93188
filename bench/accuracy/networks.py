"""The networks to evaluate, with their weights: released, from a file, or random because asked for."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import nn

from bench import loading
from bench.cli import BadInput, Resolution
from bench.models import Entry
from overlock.checkpoints.download import Unavailable, fetch

RELEASED, RANDOM, FINE_TUNED = "released", "random", "fine-tuned:"
SEED = 0
RELEASED_CLASSES = 1000


def source(entry: Entry, weights: str, size: Resolution) -> str:
    """What `load` takes for a model at a size (height, width): RELEASED becomes the file fine-tuned at that size, as
    `fine-tuned:<side>`, where the model's authors released one; the rest stays."""
    if weights == RELEASED and size[0] == size[1] and entry.family.fine_tuned(entry.name, size[0]):
        return f"{FINE_TUNED}{size[0]}"
    return weights


def trained_at(entry: Entry, weights: str) -> int | None:
    """The side of the images that released weights were last trained on; None where it is not known."""
    if weights.startswith(FINE_TUNED):
        return int(weights.removeprefix(FINE_TUNED))
    return entry.resolution if weights == RELEASED else None


def load(
    entry: Entry, form: str, weights: str, backend: str = "auto", classes: int | None = None
) -> tuple[nn.Module, str]:
    """The network in a form, on the CPU, and the label of its weights: their SHA-256, or `random:<seed>`.

    `weights` is RELEASED, `fine-tuned:<side>` (see `source`), RANDOM or a file's path; a file may hold the training
    form, or the re-parameterised one for form `deploy`. `classes` is how many it has, where not ImageNet's 1000.

    Raises:
        BadInput: if the weights cannot be had, read, or are another model's. Never random weights instead.
    """
    if weights == RANDOM:
        return loading.load(entry, form, None, SEED, backend, classes), loading.weights_label(None, SEED)
    if classes not in (None, RELEASED_CLASSES) and (weights == RELEASED or weights.startswith(FINE_TUNED)):
        raise BadInput(
            f"--num-classes {classes}: {entry.name}'s released weights have {RELEASED_CLASSES} classes: give --weights "
            f"{entry.name}=PATH of a checkpoint of {classes}"
        )
    if weights == RELEASED and entry.family.release(entry.name) is None:
        return _from_timm(entry)
    released = weights == RELEASED or weights.startswith(FINE_TUNED)
    path = released_file(entry, weights) if released else Path(weights)
    return loading.load(entry, form, path, SEED, backend, classes), loading.weights_label(path, SEED)


def released_file(entry: Entry, weights: str = RELEASED) -> Path:
    """The released file of one of the suite's models, fetched to the cache if it is not there."""
    if weights.startswith(FINE_TUNED):
        release = entry.family.fine_tuned(entry.name, int(weights.removeprefix(FINE_TUNED)))
    else:
        release = entry.family.release(entry.name)
    assert release is not None, f"{entry.name} has no such file"
    try:
        return fetch(release)
    except Unavailable as error:
        raise BadInput(f"{error}; or give --weights {entry.name}=PATH") from error


def _from_timm(entry: Entry) -> tuple[nn.Module, str]:
    import timm

    try:
        model: nn.Module = timm.create_model(entry.name, pretrained=True)
    except Exception as error:  # the hub's client raises many kinds, by what failed
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise BadInput(f"{entry.name}: timm gives no weights ({lines[0]}): give --weights {entry.name}=PATH") from error
    return model.eval(), state_digest(model)


def state_digest(model: nn.Module) -> str:
    """SHA-256 over a network's tensors, by name: for weights that come in no file of ours."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
