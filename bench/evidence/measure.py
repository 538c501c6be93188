"""Measuring what statements about cost and about re-parameterisation rest on: seconds, no weights, no data."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.cli import BadInput, last_line
from bench.evidence.statement import Statement
from bench.published import Subject
from bench.records.record import Record, from_json, new_run, stamped
from bench.scratch import scratch
from bench.tasks import COUNTED_AT

log = logging.getLogger(__name__)

COST, DENSE, PARITY = "cost", "dense", "parity"
KINDS = (COST, DENSE, PARITY)

PARITY_METHOD = "largest difference of float32 logits of deploy() and the training form over their root mean square"
PARITY_IMAGES = 2

Measured = tuple[dict[str, Any], list[Record]]


def wanted(statements: Iterable[Statement], kind: str, models: Collection[str] = ()) -> list[Subject]:
    """The subjects of a kind that statements speak of, each once; of some models only, if any are given."""

    def of_kind(subject: Subject) -> bool:
        if kind == PARITY:
            return subject.metric == "deploy_difference"
        return subject.cost and (subject.task == "classification") == (kind == COST)

    subjects = dict.fromkeys(subject for statement in statements for subject in statement.subjects)
    return [s for s in subjects if of_kind(s) and s.head != "retinanet" and (not models or s.model in models)]


def counted(subjects: Sequence[Subject]) -> Measured:
    """Parameters and MACs, by `bench.compare` in a process of its own for each task, head and resolution."""
    groups: dict[tuple[str, str, str], dict[str, None]] = {}
    for subject in subjects:
        size = subject.resolution or COUNTED_AT[subject.task]
        groups.setdefault((subject.task, subject.head, size), {})[subject.model] = None
    environment: dict[str, Any] = {}
    records: list[Record] = []
    for (task, head, size), models in groups.items():
        options = ["--task", task, *(["--head", head] if task == "detection" else [])]
        environment, made = _compare([*models], size, options)
        records += made
    return environment, records


def _compare(models: Sequence[str], size: str, options: Sequence[str]) -> Measured:
    log.info("counting %s at %s %s", ", ".join(models), size, " ".join(options))
    with scratch("count") as folder:
        output = folder / "cost.json"
        asked = ["--metrics", "params", "macs", "--resolutions", size, "--output", str(output), *options]
        command = [sys.executable, "-m", "bench.compare", "--models", *models, *asked]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, errors="replace")
        if done.returncode:
            raise BadInput(f"cannot count {' '.join(models)} at {size}: {last_line(done.stderr)}")
        return from_json(output.read_text(encoding="utf-8"))


def parity(subjects: Sequence[Subject]) -> Measured:
    """How far `deploy()`'s outputs are from the training form's, on random weights and batch-norm statistics."""
    from bench.machine.environment import collect, physical_cores

    records = []
    for subject in subjects:
        log.info("comparing the two forms of %s", subject.model)
        difference = form_difference(subject.model, int(subject.resolution))
        records.append(
            Record(
                model=subject.model,
                form="deploy",
                metric=subject.metric,
                value=difference,
                unit="relative",
                resolution=subject.resolution,
                n=PARITY_IMAGES,
                method=PARITY_METHOD,
                batch=PARITY_IMAGES,
                dtype="float32",
                device="cpu",
                weights="random:0",
            )
        )
    return collect("cpu", physical_cores()), records


def form_difference(model: str, resolution: int) -> float:
    """max |deploy - train| / rms(train) of the logits, float32 on the CPU."""
    import torch
    from torch import nn

    import overlock
    from bench.loading import load, resolve

    trained = load(resolve(model), "train", None, 0)
    generator = torch.Generator().manual_seed(0)
    for module in trained.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):  # statistics that folding must not forget
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    images = torch.randn(PARITY_IMAGES, 3, resolution, resolution, generator=generator)
    with torch.inference_mode():
        expected = trained(images)
        difference = (overlock.deploy(trained)(images) - expected).abs().max() / expected.square().mean().sqrt()
    return float(difference)


def measure(statements: Sequence[Statement], kinds: Sequence[str], models: Collection[str], results: Path) -> int:
    """Measure what statements rest on and keep the records below `results`; returns how many.

    Raises:
        BadInput: if no statement speaks of these models, or counting fails.
    """
    from bench.records.store import check, save

    check(results)
    made = 0
    for kind in kinds:
        subjects = wanted(statements, kind, models)
        if not subjects:
            continue
        environment, records = (parity if kind == PARITY else counted)(subjects)
        run = new_run()
        path = save([stamped(record, environment, run) for record in records], environment, results)
        log.info("%s: %d records in %s", kind, len(records), path)
        made += len(records)
    if not made:
        raise BadInput(f"no statement on {', '.join(kinds)} speaks of {' '.join(models)}: see bench.claims --all")
    return made
