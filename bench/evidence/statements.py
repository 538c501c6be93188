"""The published statements that `bench.claims` checks, as data: what authors say in words, in abstracts and READMEs.

What no author stated is no statement but a question (`bench.evidence.questions`). Every single published figure is a
statement too; those are read from `results/published.csv` (`bench.evidence.figures`). Importing this imports no torch
and no pandas.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from bench.evidence.statement import Statement, subjects
from bench.names import label
from bench.published import REPEATED_ACCURACY, Printed, Subject
from bench.tasks import TESTED_AT

OVERLOCK_ABSTRACT = "arXiv 2502.20087, abstract"
OVERLOCK_README = "LMMMEng/OverLoCK@2c8ab3b README.md, News"
MOGANET_ABSTRACT = "arXiv 2211.03295, abstract"

WEIGHTS_AND_IMAGENET = "the released weights and ImageNet-1K's validation images"

ONE_THIRD = (7 / 24, 5 / 12)
ONE_THIRD_WHY = "nearer to 1/3 than to 1/4 or 1/2: between 0.292 and 0.417"
MORE = (math.nextafter(0.0, 1.0), math.inf)

IDENTICAL = 1e-4
"""Largest difference of float32 logits, relative to their root mean square, that rounding explains."""

REPEATED = 2 * REPEATED_ACCURACY
"""Points by which a difference of two accuracies may differ when both are evaluated again."""

ROUNDED = 0.1
"""Points by which a difference of two figures that are rounded to 0.1 may be off."""

DIFFERENCE_WHY = (
    f"a difference of two figures rounded to 0.1, both evaluated again: within {ROUNDED} and {REPEATED:g} points"
)


def _around(points: float) -> tuple[float, float]:
    """What a published difference of two rounded accuracies may be measured as."""
    return points - ROUNDED - REPEATED, points + ROUNDED + REPEATED


def _abstract() -> Iterable[Statement]:
    for metric, word, unit in (("macs", "FLOPs", "G"), ("params", "parameters", "M")):
        yield Statement(
            id=f"one-third-{metric}",
            text=f"OverLoCK-T uses around one third of ConvNeXt-B's {word}",
            group="OverLoCK",
            subjects=subjects(metric, "overlock_t", "convnext_b"),
            factors=(1, -1),
            combine="product",
            printed=(Printed("1/3", "x", OVERLOCK_ABSTRACT, f"one-third of the {word}, {unit}"),),
            accepted=ONE_THIRD,
            states="around one third",
            tolerance=ONE_THIRD_WHY,
            unit="x",
        )
    yield Statement(
        id="t-over-convnext-b",
        text="OverLoCK-T surpasses ConvNeXt-B in ImageNet-1K top-1",
        group="OverLoCK",
        subjects=subjects("top1", "overlock_t", "convnext_b", form=""),
        factors=(1, -1),
        printed=(Printed("0.4", "points", OVERLOCK_ABSTRACT, "84.2 against 83.8 of ConvNeXt's README"),),
        accepted=MORE,
        states="84.2 against 83.8 %",
        tolerance=f"any lead beyond the {REPEATED:g} points by which repeated evaluations of both may differ; the "
        "figures of 84.2 and 83.8 are statements of their own",
        noise=REPEATED,
        unit="points",
        needs=WEIGHTS_AND_IMAGENET,
    )
    yield Statement(
        id="t-miou-over-unireplknet-t",
        text="With UperNet on ADE20K OverLoCK-T improves on UniRepLKNet-T by 1.7 mIoU",
        group="OverLoCK",
        subjects=subjects("miou", "overlock_t", "unireplknet_t", form="", task="segmentation", head="upernet",
                     resolution=TESTED_AT["segmentation"]),
        factors=(1, -1),
        printed=(Printed("1.7", "points", OVERLOCK_ABSTRACT),),
        accepted=_around(1.7),
        tolerance=DIFFERENCE_WHY,
        unit="points",
        needs="the released UperNet weights and ADE20K's validation images (UniRepLKNet-T's UperNet file is not in "
        "results/weights.csv)",
    )  # fmt: skip
    yield Statement(
        id="s-ap-over-moganet-b",
        text="With Cascade Mask R-CNN on COCO OverLoCK-S surpasses MogaNet-B by 1.0 box AP",
        group="OverLoCK",
        subjects=subjects("box AP", "overlock_s", "moganet_b", form="", task="detection", head="cascade",
                     resolution=TESTED_AT["detection"]),
        factors=(1, -1),
        printed=(Printed("1.0", "points", OVERLOCK_ABSTRACT),),
        accepted=_around(1.0),
        tolerance=DIFFERENCE_WHY,
        unit="points",
        not_measurable="no weights of OverLoCK with Cascade Mask R-CNN are released",
    )  # fmt: skip


def _reparameterised() -> Iterable[Statement]:
    for size in ("xt", "t", "s", "b"):
        model = f"overlock_{size}"
        yield Statement(
            id=f"reparam-function-{size}",
            text=f"Re-parameterised {label(model)} computes what the training form computes",
            group="OverLoCK",
            subjects=subjects("deploy_difference", model),
            printed=(Printed("0", "", OVERLOCK_README, "identical performance: the function's part of it"),),
            accepted=(0.0, IDENTICAL),
            states="identical",
            tolerance=f"float32 logits agree to {IDENTICAL:g} of their root mean square, on random weights; this is "
            "about the method, not about the released _reparam files",
        )
        yield Statement(
            id=f"reparam-top1-{size}",
            text=f"The released re-parameterised {label(model)} file has the top-1 of the released training form",
            group="OverLoCK",
            subjects=(
                Subject(model=model, metric="top1", form="", weights=f"{model}_in1k_224_reparam.pth"),
                Subject(model=model, metric="top1", form="train"),
            ),
            factors=(1, -1),
            printed=(Printed("0.0", "points", OVERLOCK_README, "identical performance: the files' part of it"),),
            accepted=(-REPEATED, REPEATED),
            states="identical",
            tolerance=f"within {REPEATED:g} points: the same images, both evaluated again, with other roundings",
            unit="points",
            needs="both released files and ImageNet-1K's validation images (no sum of the _reparam file is known)",
        )


def _moganet() -> Iterable[Statement]:
    yield Statement(
        id="moganet-17m-fewer",
        text="MogaNet-XL saves 17 M parameters against ConvNeXt-L",
        group="MogaNet",
        subjects=subjects("params", "convnext_l", "moganet_xl"),
        factors=(1, -1),
        printed=(Printed("17", "M", MOGANET_ABSTRACT),),
        unit="M",
    )
    yield Statement(
        id="moganet-181m",
        text="MogaNet's largest model has 181 M parameters",
        group="MogaNet",
        subjects=subjects("params", "moganet_xl"),
        printed=(Printed("181", "M", MOGANET_ABSTRACT),),
        unit="M",
    )


STATEMENTS: tuple[Statement, ...] = (
    *_abstract(),
    *_reparameterised(),
    *_moganet(),
)
"""Statements in words, by source; ids are unique."""
