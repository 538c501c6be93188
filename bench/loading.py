"""A registered model as a network: built, on the meta device or for real, its weights drawn or loaded."""

from __future__ import annotations

import functools
import logging
import math
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.cli import BadInput
from bench.models import Entry, entry_for_timm, find, unknown
from overlock.checkpoints.download import sha256
from overlock.checkpoints.loading import fitted, load_state
from overlock.checkpoints.reading import read_checkpoint

log = logging.getLogger(__name__)


def resolve(name: str) -> Entry:
    """The entry of a short name, alias, or any timm model name.

    Raises:
        BadInput: for a name that is neither, naming the nearest.
    """
    entry = find(name)
    if entry is not None:
        return entry
    import timm

    if name in timm.list_models() or name in timm.list_pretrained():
        return entry_for_timm(name)
    raise unknown(name, timm.list_models())


def create(entry: Entry, **kwargs: Any) -> nn.Module:
    """Build a model by timm, with the package imported that registers it."""
    import timm

    entry.family.register()
    model: nn.Module = timm.create_model(entry.name, pretrained=False, **kwargs)
    return model.eval()


def create_on_meta(entry: Entry, **kwargs: Any) -> nn.Module:
    """`create` on the meta device: shapes only, at once and without memory."""
    import torch._dynamo  # meta kernels import it when first run, which fails within a device's context (torch 2.8)

    try:
        with torch.device("meta"):
            return create(entry, **kwargs)
    except RuntimeError:  # some models, and older timm's, read numbers off tensors while they are built
        log.info("%s does not build on the meta device: built on the CPU first", entry.name)
        return create(entry, **kwargs).to("meta")


@functools.lru_cache(maxsize=1)
def counted_structure(entry: Entry, form: str) -> nn.Module:
    """The released structure of a form, on the meta device: what parameters and MACs are counted on."""
    return create_on_meta(entry, **entry.family.structure[form])


def load(
    entry: Entry, form: str, weights: Path | None, seed: int, backend: str = "auto", classes: int | None = None
) -> nn.Module:
    """The model that runs in a form, on the CPU in float32: training form first, its weights, then `overlock.deploy`.

    A file may also hold the training form without its auxiliary head, or the re-parameterised form for form `deploy`.
    `backend` chooses ContMix's implementation, where the model has it. `classes`: how many, if not 1000.

    Raises:
        BadInput: if the checkpoint is unreadable or another model's.
    """
    shape = {} if classes is None else {"num_classes": classes}
    if weights is None:
        structure: Mapping[str, Any] = {**entry.family.structure.get("train", {}), **shape}
        model = _materialised(create_on_meta(entry, **structure), entry, structure)
        randomise(model, seed)
    else:
        state, structure = read_weights(entry, form, weights, **shape)
        model = create(entry, **structure)
        load_state(model, state, str(weights))
    import overlock

    overlock.set_backend(model, backend)
    if form == "deploy" and entry.family.folds:
        model = overlock.deploy(model)
    return model.eval().requires_grad_(False)


BATCH_NORM_BUFFERS = {"running_mean": 0, "running_var": 1, "num_batches_tracked": 0}


def _materialised(blank: nn.Module, entry: Entry, kwargs: Any) -> nn.Module:
    """A model on the CPU without the slow first draw of weights, which `randomise` overwrites anyway.

    A model with other buffers than batch norm's may compute them at construction: it is built in full.
    """
    leaves = {name: name.rpartition(".")[2] for name, _ in blank.named_buffers()}
    if not BATCH_NORM_BUFFERS.keys() >= set(leaves.values()):
        return create(entry, **kwargs)
    model = blank.to_empty(device="cpu")
    for name, buffer in model.named_buffers():
        buffer.fill_(BATCH_NORM_BUFFERS[leaves[name]])
    return model


def read_weights(entry: Entry, form: str, path: Path, **shape: Any) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """The weights of a file, and the structure that they are of, as the builder's keywords (`shape` among them).

    Raises:
        BadInput: if they are unreadable or another model's.
    """
    structures: list[Mapping[str, Any]] = [{**entry.family.structure.get("train", {}), **shape}]
    if form == "deploy" and entry.family.folds:
        structures.append({**entry.family.structure["deploy"], **shape})
    problems: list[Exception] = []
    try:
        state = read_checkpoint(path)
        if structures[0].get("aux_head") and not any("aux_head." in name for name in state):
            structures[0] = {**structures[0], "aux_head": False}
        for structure in structures:
            try:
                return fitted(create_on_meta(entry, **structure), state, str(path)), structure
            except ValueError as error:
                problems.append(error)
        raise problems[0]
    except (OSError, ValueError) as error:
        raise BadInput(f"--weights {entry.name}={path}: {textwrap.shorten(str(error), 400)}") from error


def weights_label(weights: Path | None, seed: int) -> str:
    """SHA-256 of the weights' file, or `random:<seed>`."""
    return f"random:{seed}" if weights is None else sha256(weights)


@torch.no_grad()
def randomise(model: nn.Module, seed: int) -> None:
    """Draw all parameters so that signals keep their size and every branch matters.

    First weights often multiply a branch by 1e-6 or 0: then outputs hardly depend on what runs, and denormal numbers
    can slow it down. Kernels get the variance of one over their fan-in, norm weights and scales values about 1,
    everything else values about 0.
    """
    generator = torch.Generator().manual_seed(seed)
    norms = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
    norm_weights = {id(m.weight) for m in model.modules() if isinstance(m, norms) and m.weight is not None}
    for parameter in model.parameters():
        fan_in = parameter[0].numel() if parameter.dim() > 1 else 1
        deviation = 0.1 if fan_in == 1 else 1 / math.sqrt(fan_in)
        parameter.normal_(0.0, deviation, generator=generator)
        if id(parameter) in norm_weights or (parameter.dim() > 1 and fan_in == 1):
            parameter.add_(1.0)
