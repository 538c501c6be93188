"""Every published figure as a statement: parameters, FLOPs, top-1, AP and mIoU.

Figures of the same thing are one statement, whoever states them; where they contradict each other it says so.
Importing this imports no torch and no pandas.
"""

from __future__ import annotations

import re
from functools import cache

from bench.evidence.rule import RULE
from bench.evidence.statement import Statement
from bench.metrics import METRICS
from bench.models import family_of
from bench.published import Printed, Subject, distinct, published


@cache
def figure_statements() -> tuple[Statement, ...]:
    """A statement for each model and metric that has published figures, by task, family and model."""
    return tuple(_statement(subject, printed) for subject, printed in published().items())


def _about(subject: Subject, network: str) -> str:
    """What the statement calls the network and its training."""
    name, _, pretraining = network.partition(".")
    label = family_of(name).label(name)
    tag = {"fb_in1k": "", "in22k_ft_in1k": "22K", "fb_in22k_ft_in1k": "22K", "fb_in22k_ft_in1k_384": "22K"}
    extra = "" if subject.cost else tag.get(pretraining, pretraining)
    return f"{label} ({extra})" if extra else label


def _statement(subject: Subject, figures: tuple[Printed, ...]) -> Statement:
    about = _about(subject, figures[0].network)
    words = METRICS[subject.metric].published_as
    by = f", {subject.weights}" if not subject.head and " " in subject.weights else ""
    with_head = f" with {_HEAD_NAMES[subject.head]}" if subject.head else ""
    at = "" if subject.metric == "params" else f" at {subject.resolution.replace('x', ' x ')}"
    how = f", {subject.variant}" if subject.variant else ""
    trained = f", {subject.weights}" if subject.head and subject.weights else ""
    number = " or ".join(map(str, distinct(figures)))
    key = (subject.model, subject.head, subject.metric, subject.variant, subject.resolution, subject.weights)
    return Statement(
        id=re.sub(r"[^a-z0-9.]+", "-", " ".join(filter(None, ("figure", *key))).lower()).strip("-"),
        text=f"{about}{with_head}{trained}: {words} {number}{at}{how}{by}",
        group=f"{about.partition('-')[0]} figures",
        subjects=(subject,),
        printed=figures,
        tolerance=RULE,
        unit=figures[0].unit,
        needs=_needs(subject),
        not_measurable=_not_measurable(subject),
    )


_HEAD_NAMES = {
    "upernet": "UperNet",
    "maskrcnn": "Mask R-CNN",
    "cascade": "Cascade Mask R-CNN",
    "cascade_2fc": "Cascade Mask R-CNN (2fc)",
    "retinanet": "RetinaNet",
}


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
    family = family_of(subject.model)
    if subject.accuracy and subject.head in family.unreleased_heads:
        return f"no weights of {family.name} with {_HEAD_NAMES[subject.head]} are released"
    return ""
