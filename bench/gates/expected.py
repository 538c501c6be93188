"""`results/expected.csv`: the figures that must not move, one a line, and how a new figure differs from one.

Counts and fingerprints of names are exact. Logits and bytes are compared within the tolerances below, which stand well
above what other processors and library versions do to them, and well below what a change of the network does.
Imports no torch.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from bench.cli import BadInput, write_whole
from bench.files import parse_csv, read_text
from bench.gates.verdict import DIFFERS, INVALID, OK, Judgement
from bench.models import MODELS

LOGITS_TOLERANCE = {"float64": 1e-9, "float32": 2e-5, "bfloat16": 0.2}
"""By dtype: largest difference of a number of a logits fingerprint, as a fraction of the logits' root mean square.

Seen between instruction sets (SSE 4.1 to AVX-512) and PyTorch 2.8 and 2.15: below 1e-12, 1.3e-6 and 0.063."""

MEMORY_TOLERANCE = {"AVX512": 0.02}
OTHER_MEMORY_TOLERANCE = 0.15
"""As a fraction, by the CPU's capability: the file is written on AVX-512, and other kernels need other workspaces."""

FAILED = "failed"
"""The metric of a model that could not be measured; its value says why."""

Key = tuple[str, str, str, str, str]


@dataclass(frozen=True)
class Figure:
    """One expected figure. `value` is text: a whole number, a fingerprint, or the numbers of one."""

    model: str
    form: str
    metric: str  # params, state_dict, loaded, macs, logits, memory
    resolution: str
    dtype: str
    value: str

    @property
    def key(self) -> Key:
        return self.model, self.form, self.metric, self.resolution, self.dtype

    @property
    def flaw(self) -> str:
        """Why this can be no expected figure, whatever it is compared with; empty where it can."""
        if self.metric.startswith("logits"):
            try:
                finite = all(map(math.isfinite, map(float, self.value.split())))
            except ValueError:
                return "not numbers"
            return "" if finite and self.value.strip() else "not finite: was every tensor loaded?"
        if self.metric.startswith(("params", "macs", "memory")):
            return "" if re.fullmatch(r"[0-9]{1,18}", self.value) else "no whole number"
        if self.metric == "loaded":
            return "" if re.fullmatch(r"([0-9]+) of \1 tensors", self.value) else "not every tensor arrived"
        return "" if self.metric == "state_dict" and self.value else f"no metric {self.metric} with a value is expected"

    @property
    def subject(self) -> str:
        return " ".join(filter(None, (self.model, self.form, self.resolution, self.dtype)))

    @property
    def shown(self) -> str:
        """The value for people: counts with separators, the first numbers of a fingerprint."""
        if self.value.isdecimal():
            return f"{int(self.value):,}"
        if self.metric.startswith("logits") and not self.flaw:
            return " ".join([f"{float(number):.6g}" for number in self.value.split()[:2]] + ["..."])
        return self.value


COLUMNS = tuple(f.name for f in fields(Figure))

NATIVE_METRICS = ("logits native", "memory native")


@dataclass(frozen=True)
class Measured:
    """The figures, the CPU's capability by torch's name, and why there are none of the C kernels (empty: there are)."""

    figures: Sequence[Figure]
    capability: str = ""
    no_native: str = ""

    @property
    def skipped(self) -> tuple[str, ...]:
        """Metrics that this machine cannot measure."""
        return NATIVE_METRICS if self.no_native else ()


def read(path: Path) -> dict[Key, Figure]:
    """The figures of a file, by key.

    Raises:
        BadInput: if it is not there, is no such file, or has a figure that nothing can be compared with.
    """
    mend = "restore it from git; python -m bench.gate --exact --update writes one where there is none"
    figures: dict[Key, Figure] = {}
    for number, row in parse_csv(read_text(path, mend), path, COLUMNS, mend):
        figure = Figure(**{name: row[name] for name in COLUMNS})
        flaw = "there twice" if figure.key in figures else figure.flaw
        if flaw:
            raise BadInput(
                f"{path}, line {number}: {figure.subject} {figure.metric} is {flaw} ({figure.value:.40}): {mend}"
            )
        figures[figure.key] = figure
    return figures


def write(path: Path, figures: Iterable[Figure]) -> None:
    """Replace the file as a whole.

    Raises:
        BadInput: if it cannot be written.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *map(astuple, figures)])
    write_whole(path, text.getvalue())


def difference(expected: Figure, measured: Figure, capability: str) -> str:
    """How a figure differs, measured on a CPU of this capability, in words; empty where it is what is expected."""
    if measured.flaw or expected.flaw:
        return measured.flaw or f"the file's is {expected.flaw}"
    if expected.value == measured.value:
        return ""
    if measured.metric.startswith("logits"):
        return _logits_differ(expected, measured)
    if measured.value.isdecimal() and expected.value.isdecimal():
        old, new = int(expected.value), int(measured.value)
        if measured.metric.startswith("memory"):
            tolerance = MEMORY_TOLERANCE.get(capability, OTHER_MEMORY_TOLERANCE)
            if abs(new - old) <= tolerance * old:
                return ""
        return f"{new - old:+,} ({(new - old) / old:+.2%})" if old else f"{new - old:+,}"
    return "not the same"


def _logits_differ(expected: Figure, measured: Figure) -> str:
    old, new = (tuple(map(float, figure.value.split())) for figure in (expected, measured))
    if len(old) != len(new):
        return "not the same"
    largest = max(abs(a - b) for a, b in zip(old, new, strict=True)) / max(abs(old[0]), 1e-30)
    tolerance = LOGITS_TOLERANCE[measured.dtype]
    return f"by {largest:.1e} of the logits' size (tolerance {tolerance:g})" if largest > tolerance else ""


def judge(expected: Mapping[Key, Figure], measured: Measured, models: Iterable[str]) -> list[Judgement]:
    """Each measured figure against the expected one, and each expected figure of `models` that nothing measured.

    Metrics that this machine cannot measure are not missed.
    """
    judgements = []
    failed = {figure.model for figure in measured.figures if figure.metric == FAILED}
    for figure in measured.figures:
        if figure.metric == FAILED:
            judgements.append(Judgement(figure.subject, FAILED, INVALID, {}, figure.value))
            continue
        known = expected.get(figure.key)
        new = figure.flaw or "not in the file: --update adds it"
        change = difference(known, figure, measured.capability) if known else new
        cells = {"expected": known.shown if known else "", "measured": figure.shown, "change": change}
        judgements.append(Judgement(figure.subject, figure.metric, DIFFERS if change else OK, cells))
    seen, wanted = {figure.key for figure in measured.figures}, set(models)
    for key, figure in expected.items():
        if key not in seen and figure.model in wanted - failed and figure.metric not in measured.skipped:
            cells = {"expected": figure.shown, "measured": "", "change": "nothing measures it any more"}
            judgements.append(Judgement(figure.subject, figure.metric, DIFFERS, cells))
    return judgements


def updated(expected: Mapping[Key, Figure], measured: Measured, models: Iterable[str]) -> list[Figure]:
    """The figures to write: measured ones where they differ, else those that stand; what was not measured as it is.

    Not measured are other models, and metrics that this machine cannot measure.

    Raises:
        BadInput: if a model could not be measured, or a figure of it can be no expected one.
    """
    for figure in measured.figures:
        if figure.metric == FAILED:
            raise BadInput(f"{figure.subject} could not be measured, and nothing is written: {figure.value}")
        if figure.flaw:
            raise BadInput(f"{figure.subject} {figure.metric}: {figure.flaw} ({figure.value:.40}); nothing is written")
    wanted = set(models)
    new = []
    for figure in measured.figures:
        known = expected.get(figure.key)
        new.append(known if known and not difference(known, figure, measured.capability) else figure)
    kept = [f for f in expected.values() if f.model not in wanted or f.metric in measured.skipped]
    order = {name: i for i, name in enumerate(MODELS)}
    return sorted(new + kept, key=lambda figure: order.get(figure.model, len(order)))
