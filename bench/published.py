"""Figures that papers, READMEs and result files print, with their sources: the one reader of results/published.csv.

They are facts of others and are never shown as ours. Each is of a `Subject`, the figure of ours that it can be set
against. `beside` gives what stands beside a measured figure: published cost is that of the deploy form, and a published
accuracy is that of the weights that the suite evaluates the model with. Of figures that agree, the one that is printed
with most digits is shown. Figures that contradict each other are shown side by side; those read from a plot come last.
Importing this imports no torch and no pandas.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from bench.cli import BadInput
from bench.families import SIZE_NAMES
from bench.files import parse_csv, read_text
from bench.metrics import METRICS
from bench.models import MODELS, family_of
from bench.paths import data_file
from bench.plugins import FAMILIES
from bench.tasks import COUNTED_AT, MULTI_SCALE, TESTED_AT

OURS = {name: metric.name for metric in METRICS.values() for name in metric.published}
"""Metric of published.csv -> metric of our records."""

SCALE = {"M": 1e6, "G": 1e9, "%": 1.0, "points": 1.0, "x": 1.0, "": 1.0}
"""Unit as printed -> what the printed number is multiplied by."""

COUNTING = 0.01
"""Share by which counters of multiply-adds differ: some count norms, biases or resizing; no source names its own."""

REPEATED_ACCURACY = 0.03
"""Points by which a repeated evaluation of the same weights may differ: other kernels, another JPEG decoder."""

COLUMNS = ("model", "metric", "value", "unit", "task", "dataset", "resolution", "protocol", "source", "confidence")

LEFT_OUT = ("third party",)
"""Retrainings by others: figures of neither the authors nor timm."""

HEADS = (
    (re.compile("RetinaNet"), "retinanet"),
    (re.compile(r"Cascade Mask R-CNN MS 3x"), "cascade_2fc"),
    (re.compile(r"Cascade"), "cascade"),
    (re.compile("Mask R-CNN"), "maskrcnn"),
    (re.compile("UperNet|mIoU|file name"), "upernet"),
)
"""How a protocol names its head; MogaNet-S's cascade without GIoU is the one with two linear layers."""

SCHEDULES = re.compile(r"\b(1x|(?:MS )?3x)\b")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One figure, by the fields of the record that would hold it."""

    model: str
    metric: str
    form: str = "deploy"  # empty: any
    resolution: str = "224"  # empty: any
    task: str = "classification"
    head: str = ""  # of a dense model
    variant: str = ""  # of an accuracy's test: "multi-scale and flip"
    weights: str = ""  # file of results/weights.csv, where not the ones that the suite evaluates the model with
    device: str = ""  # "cuda" where the figure is of a GPU

    @property
    def timed(self) -> bool:
        """Whether only figures of one run can be set against each other."""
        return METRICS[self.metric].timed

    @property
    def cost(self) -> bool:
        """Whether it is counted, on any machine and without weights."""
        return METRICS[self.metric].cost

    @property
    def accuracy(self) -> bool:
        """Whether only trained weights and a data set give it."""
        return METRICS[self.metric].accuracy

    def __str__(self) -> str:
        parts = (self.model, self.head, self.form if self.form != "deploy" else "", self.metric)
        where = "" if self.metric == "params" or not self.resolution else f" at {self.resolution}"
        return " ".join(filter(None, parts)) + where


@dataclass(frozen=True)
class Printed:
    """A figure as a source prints it. `slack` is how far off a value read from a plot may be, in its unit."""

    text: str
    unit: str
    source: str
    protocol: str = ""
    slack: float = 0.0
    confidence: str = ""
    network: str = ""  # as published.csv names the network and its pretraining

    @property
    def value(self) -> float:
        """In whole units: parameters, MACs, %; a text may be a fraction, 1/3."""
        return float(Fraction(self.text)) * SCALE[self.unit]

    @property
    def decimals(self) -> int:
        """Digits after the point; a fraction is shown with four."""
        return 4 if "/" in self.text else len(self.text.partition(".")[2])

    def __str__(self) -> str:
        """`5.5 G`; one read from a plot with how far off it may be, `281 ±1 G`."""
        return f"{self.text}{f' ±{self.slack:g}' if self.slack else ''} {self.unit}".rstrip()

    @property
    def step(self) -> float:
        """One unit of the last printed digit, in whole units."""
        return 10.0**-self.decimals * SCALE[self.unit]

    @property
    def repository(self) -> str:
        """Whose figure it is: the first word of its source."""
        return self.source.partition(" ")[0]

    @property
    def half(self) -> float:
        """How far off a value that prints as this figure may be, in whole units: half a unit of the last digit, or as
        exactly as the plot could be read."""
        return max(self.step / 2, self.slack * SCALE[self.unit])

    @property
    def tolerance(self) -> float:
        """How far from a value that prints so a measured one may be and still count as near, in whole units."""
        return {"%": REPEATED_ACCURACY, "points": REPEATED_ACCURACY, "G": COUNTING * self.value}.get(self.unit, 0.0)

    def prints(self, value: float) -> bool:
        """Whether a value, in whole units, prints as this figure."""
        return abs(value - self.value) <= self.half * (1 + 1e-9)

    def near(self, value: float) -> bool:
        """Whether a value is within the tolerance of one that prints as this figure."""
        return abs(value - self.value) <= (self.half + self.tolerance) * (1 + 1e-9)

    def agrees(self, other: Printed) -> bool:
        """Whether both may be the same number, one of them rounded further, or read from a plot."""
        within = max(self.half, other.half, self.tolerance, other.tolerance)
        return abs(self.value - other.value) <= within * (1 + 1e-9)


def most(given: int, of: int) -> bool:
    """Whether a convention that gives so many of a source's figures is taken for the source's own: more than half.

    Of many conventions and few digits some agree by chance.
    """
    return 2 * given > of


def distinct(figures: Iterable[Printed]) -> list[Printed]:
    """The figures that contradict each other: each one that agrees with none before it; sources read by eye come last.

    Of several that agree, the one printed with most digits.
    """
    kept: list[Printed] = []
    for figure in sorted(figures, key=lambda f: (f.slack, f.step)):
        if not any(figure.agrees(other) for other in kept):
            kept.append(figure)
    return kept


@functools.cache
def published() -> Mapping[Subject, tuple[Printed, ...]]:
    """Everything published of the four families' cost and accuracy, by what it is of, in the file's order.

    Raises:
        BadInput: if the file is damaged or holds no figure.
    """
    figures: dict[Subject, list[Printed]] = {}
    _add(figures, data_file("published.csv"), "restore it from git, or install the suite again")
    for family in FAMILIES.values():
        if family.figures is not None:
            _add(figures, family.figures, f"mend the file of the package that has {family.name}")
    return {subject: tuple(printed) for subject, printed in figures.items()}


def _add(figures: dict[Subject, list[Printed]], path: Path, mend: str) -> None:
    """Add what a file has."""
    before = len(figures)
    for number, row in parse_csv(read_text(path, mend), path, COLUMNS, mend):
        try:
            if _wanted(row):
                figures.setdefault(_subject(row), []).append(_printed(row))
        except (KeyError, ValueError, StopIteration) as error:
            why = f"{type(error).__name__} {error}".strip()
            raise BadInput(f"{path}, line {number}: no published figure can be read there ({why}): {mend}") from error
    if len(figures) == before:
        raise BadInput(f"{path} holds no published figure: {mend}")


def beside(
    metric: str,
    model: str,
    resolution: str,
    *,
    form: str = "deploy",
    task: str = "classification",
    head: str = "",
    variant: str = "",
    weights: str = "",
) -> tuple[Printed, ...]:
    """Everything published of what the suite measures of a model, by its short name or timm's.

    Parameters are the same at every resolution. `weights` is the released file that an accuracy is of, where that is
    not the one that the model is evaluated with by default. `distinct` leaves of it what is shown.
    """
    if METRICS[metric].cost:
        if form != "deploy":
            return ()
        variant = ""  # of a detector published cost is on the fixed path, too
        if metric == "params":
            resolution = "224" if task == "classification" else ""
    else:
        form = ""
    what = {"form": form, "resolution": resolution, "task": task, "head": head, "variant": variant, "weights": weights}
    return published().get(Subject(model=model, metric=metric, **what), ())


def shown(figures: Iterable[Printed]) -> str:
    """Published figures as a cell of a table: contradicting ones side by side."""
    return "/".join(figure.text for figure in distinct(figures))


def _wanted(row: Mapping[str, str]) -> bool:
    if row["metric"] not in OURS or row["unit"] == "count" or row["confidence"] in LEFT_OUT:
        return False
    of_imagenet = row["task"] == "classification" and row["dataset"].startswith("ImageNet-1K")
    return bool(family_of(row["model"]).sizes) and (of_imagenet or row["task"] in COUNTED_AT)


def _printed(row: Mapping[str, str]) -> Printed:
    read = re.search(r"\+-([\d.]+) pt, \+-([\d.]+) G", row["confidence"])
    slack = 0.0 if read is None else float(read[2] if row["unit"] == "G" else read[1])
    if not math.isfinite(float(row["value"]) * SCALE[row["unit"]]):
        raise ValueError(f"{row['value']} is not finite")
    return Printed(row["value"], row["unit"], row["source"], row["protocol"], slack, row["confidence"], row["model"])


def _subject(row: Mapping[str, str]) -> Subject:
    metric, task = OURS[row["metric"]], row["task"]
    if task == "classification":
        return _of_classifier(row, metric)
    head = next(head for pattern, head in HEADS if pattern.search(row["protocol"]))
    cost = METRICS[metric].cost
    size = (COUNTED_AT if cost else TESTED_AT)[task]
    if task == "segmentation" and row["resolution"] == "640":
        size = "640x2560" if cost else "2560x640"
    return Subject(
        model=_cost_model(row["model"]),
        metric=metric,
        form="deploy" if cost else "",
        task=task,
        head=head,
        resolution="" if metric == "params" else size,
        variant=MULTI_SCALE if row["metric"] == "mIoU_MS" else "",
        weights="" if cost else _trained(row),
    )


def _of_classifier(row: Mapping[str, str], metric: str) -> Subject:
    trained_elsewhere = row["resolution"].endswith("train")
    size = "224" if metric == "params" or trained_elsewhere else row["resolution"]
    if METRICS[metric].cost:
        return Subject(model=_cost_model(row["model"]), metric=metric, resolution=size)
    model, weights = _weights(row)
    return Subject(model=model, metric=metric, form="", resolution=size, weights=weights)


def _cost_model(network: str) -> str:
    """The model whose cost is meant: pretraining does not change it. ConvNeXt-XL goes by timm's name."""
    name = network.partition(".")[0]
    family, _, size = name.partition("_")
    return name if name in MODELS else f"{family}_{SIZE_NAMES[size]}"


def _weights(row: Mapping[str, str]) -> tuple[str, str]:
    """Which model and weights an ImageNet top-1 is of: a name that `bench.top1` takes, and a file if not its own."""
    name, _, pretraining = row["model"].partition(".")
    if row["resolution"].endswith("train"):
        return name, f"weights trained at {row['resolution'].partition(' ')[0]} by {row['protocol']}"
    return family_of(name).weights_of(name.partition("_")[2], pretraining, row["resolution"])


def _trained(row: Mapping[str, str]) -> str:
    """What distinguishes one dense model's weights from another's: pretraining, schedule and training size."""
    schedule = SCHEDULES.search(row["protocol"])
    parts = [row["model"].partition(".")[2], schedule[1].removeprefix("MS ") if schedule else ""]
    if row["task"] == "segmentation" and row["resolution"] == "640":
        parts.append("640")
    return " ".join(filter(None, parts))
