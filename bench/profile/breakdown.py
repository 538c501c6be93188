"""A model's time, MACs, parameters and activations by stage and by kind of operator, as records and tables.

Importing this imports no torch.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from bench.engine.job import Job, Settings, automatic_batch
from bench.engine.runner import run as start
from bench.records.record import Record, new_run, stamped

if TYPE_CHECKING:
    from bench.engine.subject import Subject
    from bench.profile.operators import Operator

log = logging.getLogger(__name__)

BREAKDOWN = "breakdown"
"""Kind of job."""

PREFIX = "breakdown"
"""The beginning of a part's metric, `breakdown/<by>/<of>/<part>`: `by` is operator or stage, `of` one of `AMOUNTS`."""

BYTES = "bytes_moved"
"""Metric: the bytes that the operators read and write for one image, if all of them went to memory."""

AMOUNTS = {"time": "s", "macs": "MACs", "params": "count", "activations": "count"}
CALLS = 7
METHOD = f"each operator alone, synchronised, median of {CALLS} calls; per image"


def records(found: Sequence[Operator], batch: int, template: Record) -> Iterator[Record]:
    """The records of the parts and of the bytes moved; per image, except for parameters."""
    for by in ("operator", "stage"):
        parts: dict[str, dict[str, float]] = {}
        for op in found:
            part = parts.setdefault(op.kind if by == "operator" else op.stage, dict.fromkeys(AMOUNTS, 0.0))
            part["time"] += op.median / batch
            part["macs"] += op.macs / batch
            part["params"] += op.params
            part["activations"] += op.activations / batch
        for name, amounts in parts.items():
            for of, unit in AMOUNTS.items():
                yield replace(
                    template, metric=f"{PREFIX}/{by}/{of}/{name}", value=amounts[of], unit=unit, method=METHOD
                )
    moved = sum(op.bytes for op in found) / batch
    yield replace(template, metric=BYTES, value=moved, unit="bytes", method="inputs and outputs of each operator")


def tables(found: Iterable[Record]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Tables by operator and by stage: a title, the headings, and a row for each part with its shares of the whole."""
    models: dict[tuple[str, str, str], dict[str, dict[str, dict[str, float]]]] = {}
    for r in found:
        if r.metric.startswith(f"{PREFIX}/") and r.value is not None:
            _, by, of, part = r.metric.split("/", 3)
            model = models.setdefault((r.model, r.form, r.resolution), {})
            model.setdefault(by, {}).setdefault(part, {})[of] = r.value
    headings = ["ms", "%", "MACs M", "%", "parameters k", "%", "activations k", "%"]
    scale = {"time": 1e-3, "macs": 1e6, "params": 1e3, "activations": 1e3}
    made = []
    for (name, form, resolution), by_what in models.items():
        for by, parts in by_what.items():
            totals = {of: sum(amounts.get(of, 0.0) for amounts in parts.values()) for of in AMOUNTS}
            rows = []
            for part, amounts in [*sorted(parts.items(), key=lambda i: -i[1].get("time", 0)), ("all", totals)]:
                row = [part]
                for of in AMOUNTS:
                    row += [f"{amounts.get(of, 0.0) / scale[of]:.2f}"]
                    row += [f"{amounts.get(of, 0.0) / totals[of]:.1%}" if totals[of] else ""]
                rows.append(row)
            made.append((f"{name}, {form} form, {resolution}, by {by}", [by, *headings], rows))
    return made


def render(found: Sequence[Record], style: str) -> str:
    """The tables as text: table, markdown or latex."""
    from bench.render import table

    parts = []
    for title, headings, rows in tables(found):
        parts.append(f"{'% ' if style == 'latex' else ''}{title}\n\n{table(headings, rows, style, words=1)}")
    return "\n\n".join(parts)


def run(
    models: Sequence[str],
    forms: Callable[[str], Sequence[str]],
    sizes: Sequence[tuple[int, int]],
    settings: Settings,
    task: str,
    head: str,
) -> tuple[dict[str, Any], list[Record]]:
    """Break down each model in its forms, each in a fresh process; returns the environment and the records.

    Raises:
        BadInput: if the machine or the models don't allow it.
    """
    check = {"models": list(models), "settings": asdict(settings), "dtypes": [settings.dtype], "task": task}
    environment: dict[str, Any] = {}
    for message in start([[]], settings.threads, check):
        assert isinstance(message, dict)
        environment = message["environment"]
        settings = replace(settings, device=message["device"])
    made: list[Record] = []
    for model, size in itertools.product(models, sizes):
        batch = automatic_batch(settings.device, size) if settings.batch == "auto" else settings.batch
        for form in forms(model):
            common: dict[str, Any] = {"resolution": size, "task": task, "head": head}
            job = Job(
                kind=BREAKDOWN,
                model=model,
                form=form,
                metrics=(BYTES,),
                settings=replace(settings, batch=batch),
                **common,
            )
            log.info("breaking down %s %s at %dx%d", model, form, *size)
            made += [r for r in start([[job]], settings.threads) if isinstance(r, Record)]
    name = new_run()
    return environment, [stamped(record, environment, name) for record in made]


def measure(template: Record, subject: Subject) -> Iterator[Record]:
    """The records of a prepared subject; `template` has the conditions."""
    from bench.profile.operators import operators

    assert template.batch is not None
    yield from records(operators(subject, CALLS), template.batch, template)
