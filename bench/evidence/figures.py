"""Every published figure as a statement: parameters, FLOPs, top-1, AP and mIoU, read from `results/published.csv`.

Figures of the same thing are one statement, whoever states them; where they contradict each other it says so.
Importing this imports no torch and no pandas.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from functools import cache

from bench.evidence.statement import (
    COUNTING,
    REPEATED_ACCURACY,
    Printed,
    Statement,
    Subject,
    distinct,
)
from bench.models import MODELS, SIZE_NAMES
from bench.paths import data_file
from bench.tasks import MULTI_SCALE

METRICS = {
    "params": "params",
    "flops": "macs",
    "top1": "top1",
    "AP_b": "box AP",
    "AP_m": "mask AP",
    "mIoU": "miou",
    "mIoU_MS": "miou",
}
"""Metric of published.csv -> metric of our records."""

WORDS = {"miou": "mIoU", "params": "parameters", "macs": "FLOPs", "top1": "ImageNet-1K top-1"}
FAMILIES = ("overlock", "convnext", "unireplknet", "moganet")
FAMILY_NAMES = {family.name.lower(): family.name for family in (entry.family for entry in MODELS.values())}

IMAGENET = "the weights and ImageNet-1K's validation images"
DENSE_SIZES = {"segmentation": "512x2048", "detection": "800x1280"}
TEST_SIZES = {"segmentation": "2048x512", "detection": "1333x800"}

HEADS = (
    (re.compile("RetinaNet"), "retinanet"),
    (re.compile(r"Cascade Mask R-CNN MS 3x"), "cascade_2fc"),
    (re.compile(r"Cascade"), "cascade"),
    (re.compile("Mask R-CNN"), "maskrcnn"),
    (re.compile("UperNet|mIoU|file name"), "upernet"),
)
"""How a protocol names its head; MogaNet-S's cascade without GIoU is the one with two linear layers."""

SCHEDULES = re.compile(r"\b(1x|(?:MS )?3x)\b")
LEFT_OUT = ("third party",)
"""Retrainings by others: statements of neither the authors nor timm."""


@cache
def figure_statements() -> tuple[Statement, ...]:
    """A statement for each model and metric that has published figures, by task, family and model."""
    groups: dict[tuple[str, str, Subject], list[Printed]] = {}
    with data_file("published.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if _wanted(row):
                key = (row["task"], _about(row), _subject(row))
                groups.setdefault(key, []).append(_printed(row))
    return tuple(_statement(about, subject, printed) for (_, about, subject), printed in groups.items())


def _wanted(row: Mapping[str, str]) -> bool:
    if row["metric"] not in METRICS or row["unit"] == "count" or row["confidence"] in LEFT_OUT:
        return False
    of_imagenet = row["task"] == "classification" and row["dataset"].startswith("ImageNet-1K")
    return row["model"].startswith(FAMILIES) and (of_imagenet or row["task"] in DENSE_SIZES)


def _printed(row: Mapping[str, str]) -> Printed:
    read = re.search(r"\+-([\d.]+) pt, \+-([\d.]+) G", row["confidence"])
    slack = 0.0 if read is None else float(read[2] if row["unit"] == "G" else read[1])
    return Printed(row["value"], row["unit"], row["source"], row["protocol"], slack)


def _subject(row: Mapping[str, str]) -> Subject:
    metric, task = METRICS[row["metric"]], row["task"]
    cost = metric in ("params", "macs")
    if task == "classification":
        trained_elsewhere = row["resolution"].endswith("train")
        size = "224" if metric == "params" or trained_elsewhere else row["resolution"]
        model, weights = _cost_model(row["model"]), ""
        if not cost:
            model, weights = _weights(row)
        form = "deploy" if cost else ""
        return Subject(model=model, metric=metric, form=form, resolution=size, weights=weights)
    head = next(head for pattern, head in HEADS if pattern.search(row["protocol"]))
    size = (DENSE_SIZES if cost else TEST_SIZES)[task]
    if task == "segmentation" and row["resolution"] == "640":
        size = "640x2560" if cost else "2560x640"
    variant = MULTI_SCALE if row["metric"] == "mIoU_MS" else ""
    weights = "" if cost else _trained(row)
    return Subject(
        model=_cost_model(row["model"]),
        metric=metric,
        form="deploy" if cost else "",
        task=task,
        head=head,
        resolution="" if metric == "params" else size,
        variant=variant,
        weights=weights,
    )


def _cost_model(published: str) -> str:
    """The model whose cost is meant: pretraining does not change it. ConvNeXt-XL goes by timm's name."""
    name = published.partition(".")[0]
    return name if name in MODELS else _timm(name)


def _timm(name: str) -> str:
    family, _, size = name.partition("_")
    return f"{family}_{SIZE_NAMES[size]}"


def _weights(row: Mapping[str, str]) -> tuple[str, str]:
    """Which model and weights an ImageNet top-1 is of: a name that `bench.top1` takes, and a file if not its own."""
    name, _, pretraining = row["model"].partition(".")
    size = name.partition("_")[2]
    if row["resolution"].endswith("train"):
        return name, f"weights trained at {row['resolution'].partition(' ')[0]} by {row['protocol']}"
    if name.startswith("convnext"):
        if pretraining in ("", "fb_in1k"):
            full = f"convnext_{SIZE_NAMES[size]}_1k_384.pth"
            return name, full if row["resolution"] == "384" and not pretraining else ""
        tag = "fb_in22k_ft_in1k" + ("_384" if row["resolution"] == "384" else "")
        return f"{_timm(name)}.{tag}", ""
    if name.startswith("unireplknet") and pretraining and name in ("unireplknet_s",):
        return name, f"{name}_in22k_to_in1k_384_acc86.44.pth"
    if name.startswith("moganet"):
        if pretraining:
            return name, "moga_tiny_deit3_sz256_lr2e_3_8xb128_fp16_ep300.pth" if size == "t" else "refined recipe"
        if row["resolution"] == "256":
            return name, f"moganet_{SIZE_NAMES[size]}_sz256_8xbs128_ep300.pth.tar"
    return name, ""


def _trained(row: Mapping[str, str]) -> str:
    """What tells one dense model's weights from another's: pretraining, schedule and training size."""
    schedule = SCHEDULES.search(row["protocol"])
    parts = [row["model"].partition(".")[2], schedule[1].removeprefix("MS ") if schedule else ""]
    if row["task"] == "segmentation" and row["resolution"] == "640":
        parts.append("640")
    return " ".join(filter(None, parts))


def _about(row: Mapping[str, str]) -> str:
    """What the statement calls the network and its training."""
    name, _, pretraining = row["model"].partition(".")
    family, _, size = name.partition("_")
    label = f"{FAMILY_NAMES[family]}-{size.upper()}"
    cost = METRICS[row["metric"]] in ("params", "macs")
    tag = {"fb_in1k": "", "in22k_ft_in1k": "22K", "fb_in22k_ft_in1k": "22K", "fb_in22k_ft_in1k_384": "22K"}
    extra = "" if cost else tag.get(pretraining, pretraining)
    return f"{label} ({extra})" if extra else label


def _statement(about: str, subject: Subject, printed: Iterable[Printed]) -> Statement:
    figures = tuple(printed)
    words = WORDS.get(subject.metric, subject.metric)
    by = f", {subject.weights}" if not subject.head and " " in subject.weights else ""
    with_head = f" with {_HEAD_NAMES[subject.head]}" if subject.head else ""
    at = "" if subject.metric == "params" else f" at {subject.resolution.replace('x', ' x ')}"
    how = f", {subject.variant}" if subject.variant else ""
    trained = f", {subject.weights}" if subject.head and subject.weights else ""
    number = distinct_text(figures)
    key = (subject.model, subject.head, subject.metric, subject.variant, subject.resolution, subject.weights)
    return Statement(
        id=re.sub(r"[^a-z0-9.]+", "-", " ".join(filter(None, ("figure", *key))).lower()).strip("-"),
        text=f"{about}{with_head}{trained}: {words} {number}{at}{how}{by}",
        group=f"{about.partition('-')[0]} figures",
        subjects=(subject,),
        printed=figures,
        tolerance=_TOLERANCES.get(figures[0].unit, "prints as published"),
        unit=figures[0].unit,
        needs=_needs(subject),
        not_measurable=_not_measurable(subject),
    )


_TOLERANCES = {
    "G": f"within {COUNTING:.0%}: counters differ in what they count beside products, and no source names its counter",
    "%": f"the last printed digit, {REPEATED_ACCURACY} points at least",
}

_HEAD_NAMES = {
    "upernet": "UperNet",
    "maskrcnn": "Mask R-CNN",
    "cascade": "Cascade Mask R-CNN",
    "cascade_2fc": "Cascade Mask R-CNN (2fc)",
    "retinanet": "RetinaNet",
}


def distinct_text(figures: tuple[Printed, ...]) -> str:
    """The printed figures, contradicting ones joined by "or"."""
    return " or ".join(f"{figure.text} {figure.unit}" for figure in distinct(figures))


def _needs(subject: Subject) -> str:
    if subject.head == "retinanet":
        return "a RetinaNet head, which the suite does not have"
    if subject.metric == "top1":
        return f"{subject.weights or 'the released weights'} and ImageNet-1K's validation images"
    if subject.task == "segmentation" and subject.metric == "miou":
        return "the released UperNet weights and ADE20K's validation images"
    if subject.task == "detection" and subject.metric in ("box AP", "mask AP"):
        return "the released detector's weights and COCO's validation images"
    return ""


def _not_measurable(subject: Subject) -> str:
    of_overlock = subject.model.startswith("overlock") and subject.accuracy
    if subject.head == "cascade" and of_overlock:
        return "no weights of OverLoCK with Cascade Mask R-CNN are released"
    return ""
