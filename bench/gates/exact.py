"""The exact tier: figures of every registered model and form that must be the same on every machine.

Parameters, names and shapes, MACs at five resolutions, logits of fixed weights that come through the loading of a
checkpoint, and the memory that a call allocates. A model is measured in one process with one thread.
"""

from __future__ import annotations

import concurrent.futures
import logging
import multiprocessing
import os
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli import BadInput, resolution_name, stop_on_signals
from bench.gates.expected import FAILED, Figure, Measured
from bench.machine.environment import physical_cores
from bench.models import MODELS, Entry, entry_of
from bench.scratch import scratch

if TYPE_CHECKING:
    from torch import Tensor, nn

RESOLUTIONS = ((224, 224), (256, 320), (384, 384), (512, 512), (800, 1280))
LOGITS_AT = {"float32": (2, (224, 224)), "float64": (1, (96, 96)), "bfloat16": (1, (96, 96))}
"""Images a batch and their size, by dtype."""

LARGE = 150e6
"""Models with more parameters are left out in float64, for memory's sake; smaller ones of a family share their code."""

TORCH, NATIVE = "PyTorch's kernels", "C kernels"
"""Kinds of steps."""

PROCESSES = 2
LOG_LEVEL = {"KINETO_LOG_LEVEL": "99"}


def measure(names: Sequence[str], done: Callable[[str, str], None], imports: Sequence[str] = ()) -> Measured:
    """The figures of models, in the order of the names; `done` gets the kind and model of each of `steps`.

    Modules of `imports` register models beside the suite's.

    All figures are of PyTorch's kernels, which any machine has; logits and memory in float32 also of OverLoCK's C
    kernels, where they can be had.

    Raises:
        BadInput: if a process dies, as it does when memory runs out.
    """
    plain, capability, _ = _in_processes(names, TORCH, imports, done)
    native, _, reason = _in_processes(steps(names)[NATIVE], NATIVE, imports, done)
    return Measured([f for name in names for f in (*plain[name], *native.get(name, ()))], capability, reason)


def steps(names: Sequence[str]) -> dict[str, list[str]]:
    """The models that `measure` goes through, by kind of step; the C kernels serve those with ContMix."""
    return {TORCH: list(names), NATIVE: [name for name in names if entry_of(name).family.contmix]}


def _in_processes(
    names: Sequence[str], kind: str, imports: Sequence[str], done: Callable[[str, str], None]
) -> tuple[dict[str, list[Figure]], str, str]:
    """The figures by model, the CPU's capability, and why there are no native kernels."""
    os.environ.update(LOG_LEVEL)  # the profiler's own messages are not for the reader of a gate
    measured: dict[str, list[Figure]] = {}
    if not names:
        return measured, "", ""
    context = multiprocessing.get_context("spawn")
    workers = min(PROCESSES, physical_cores(), len(names))
    with concurrent.futures.ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(kind,)) as pool:
        place = pool.submit(_place)
        futures = {pool.submit(figures, name, kind, imports): name for name in sorted(names, key=_work, reverse=True)}
        try:
            for future in concurrent.futures.as_completed(futures):
                measured[futures[future]] = future.result()
                done(kind, futures[future])
            return measured, *place.result()
        except concurrent.futures.process.BrokenProcessPool as error:
            raise BadInput("a measuring process died, as it does when memory runs out: give fewer --models") from error
        except KeyboardInterrupt:  # where a signal reached this process alone
            for child in multiprocessing.active_children():
                child.terminate()
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _work(name: str) -> tuple[bool, int]:
    """Order of size: networks with ContMix take longest to count; later entries of a family are larger."""
    order = list(MODELS)
    return entry_of(name).family.contmix, order.index(name) if name in MODELS else 0


def _begin(kind: str) -> None:
    """In a new process: one thread, C kernels or not, and no warnings of libraries about each other."""
    stop_on_signals()
    warnings.simplefilter("ignore", FutureWarning)
    if kind == TORCH:
        os.environ["OVERLOCK_NATIVE"] = "0"
        logging.getLogger("overlock").setLevel(logging.ERROR)  # which it warns of
    import torch

    torch.set_num_threads(1)


def _place() -> tuple[str, str]:
    """The CPU's capability, and why there are no native kernels."""
    import torch

    from overlock import native

    return str(torch.backends.cpu.get_cpu_capability()), native.why_not() or ""


def figures(name: str, kind: str, imports: Sequence[str] = ()) -> list[Figure]:
    """A model's figures of a kind of step, by form; if it fails, what was measured before and the failure as one."""
    from bench.engine.check import import_modules

    entry = entry_of(name)
    measured: list[Figure] = []
    try:
        import_modules(imports)
        with scratch("exact") as folder:
            for figure in (_all_of if kind == TORCH else _native)(entry, folder / "weights.pth"):
                measured.append(figure)
    except Exception as error:  # a model that fails is a result of its own, not the end of the gate
        traceback.print_exc()
        why = " ".join(f"{type(error).__name__}: {error}".split())
        measured.append(Figure(name, entry.family.forms[0], FAILED, "", "", why[:300]))
    return sorted(measured, key=lambda figure: entry.family.forms.index(figure.form))


def _all_of(entry: Entry, path: Path) -> Iterator[Figure]:
    for form in entry.family.forms:
        yield from _counted(entry, form)
    state = _write_weights(entry, path)
    model = _loaded(entry, path)
    yield _arrived(entry, model, state)
    del state
    yield from _computed(entry, model)


def _native(entry: Entry, path: Path) -> Iterator[Figure]:
    """Logits and memory in float32 with the C kernels; none where they cannot be had."""
    from overlock import native

    if native.why_not() is None:
        _write_weights(entry, path)
        for figure in _computed(entry, _loaded(entry, path), ("float32",)):
            yield replace(figure, metric=f"{figure.metric} native")


def _counted(entry: Entry, form: str) -> Iterator[Figure]:
    from bench.cost import count as cost
    from bench.gates import fingerprint
    from bench.loading import counted_structure, create_on_meta

    structure = entry.family.structure[form]
    model = counted_structure(entry, form)
    yield Figure(entry.name, form, "params", "", "", str(cost.count_parameters(model)))
    if "aux_head" in structure:
        has = bool(structure["aux_head"])
        other = create_on_meta(entry, **{**structure, "aux_head": not has})
        metric = "params without aux" if has else "params with aux"
        yield Figure(entry.name, form, metric, "", "", str(cost.count_parameters(other)))
    yield Figure(entry.name, form, "state_dict", "", "", fingerprint.state_dict(model.state_dict()))
    for size in RESOLUTIONS:
        try:
            macs = str(cost.count_macs(model, size).macs)
        except cost.CostError as error:
            macs = f"not counted: {error}"
        yield Figure(entry.name, form, "macs", resolution_name(size), "", macs)


def _arrived(entry: Entry, model: nn.Module, state: dict[str, Tensor]) -> Figure:
    """How many tensors of a file are in the model that was loaded from it."""
    from bench.gates import fixed

    wrong = fixed.same(model.state_dict(), state)
    why = f"; not {', '.join(wrong[:3])}" if wrong else ""
    form = entry.family.forms[0]
    return Figure(entry.name, form, "loaded", "", "", f"{len(state) - len(wrong)} of {len(state)} tensors{why}")


def _write_weights(entry: Entry, path: Path) -> dict[str, Tensor]:
    """Fixed weights, in a file as a release has them; returns them."""
    import torch

    from bench.gates import fixed

    state = fixed.weights(_blank(entry).state_dict())
    torch.save({"model": state}, path)
    return state


def _computed(entry: Entry, model: nn.Module, dtypes: Sequence[str] = tuple(LOGITS_AT)) -> Iterator[Figure]:
    """Logits in each form and dtype, and the memory of a call in float32, of the training form that is given.

    The model is folded in float32 and in float64; in bfloat16 the one folded in float32 runs, as users do it.
    """
    import torch

    import overlock

    folds = entry.family.folds
    parameters = sum(p.numel() for p in model.parameters())
    for dtype in dtypes:  # in LOGITS_AT's order each holds the first one's numbers, until the last rounds them
        if dtype == "float64" and parameters > LARGE:
            continue
        model = model.to(getattr(torch, dtype))
        yield from _forward(entry, entry.family.forms[0], model, dtype)
        if folds and dtype != "bfloat16":
            deployed = overlock.deploy(model)
            yield from _forward(entry, "deploy", deployed, dtype)
            if dtype == "float32" and "bfloat16" in dtypes:
                yield from _forward(entry, "deploy", deployed.to(torch.bfloat16), "bfloat16")
            del deployed


def _forward(entry: Entry, form: str, model: nn.Module, dtype: str) -> Iterator[Figure]:
    import torch

    from bench.gates import fingerprint, fixed

    batch, size = LOGITS_AT[dtype]
    images = fixed.images(batch, size).to(getattr(torch, dtype))
    where = entry.name, form
    with torch.inference_mode():
        logits = fingerprint.logits(model(images))
    yield Figure(*where, "logits", resolution_name(size), dtype, logits)
    if dtype == "float32":
        memory = fingerprint.allocated_peak(model, images)
        yield Figure(*where, "memory", resolution_name(size), dtype, str(memory))


def _blank(entry: Entry) -> nn.Module:
    """The training form on the meta device: what a release's weights are of."""
    from bench.loading import create_on_meta

    return create_on_meta(entry, **entry.family.structure.get("train", {}))


def _loaded(entry: Entry, path: Path) -> nn.Module:
    """The training form with the file's weights.

    Before loading every number is NaN: what loading leaves out cannot pass for a value.
    """
    from overlock.checkpoints.loading import load_checkpoint

    model = _blank(entry).to_empty(device="cpu")
    state = model.state_dict()
    assert len(state) == len([*model.parameters(), *model.buffers()]), "a buffer that no checkpoint holds"
    for tensor in state.values():
        tensor.fill_(float("nan") if tensor.dtype.is_floating_point else -1)
    load_checkpoint(model, path)
    return model.eval().requires_grad_(False)
