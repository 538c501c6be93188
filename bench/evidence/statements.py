"""The published statements that `bench.claims` checks, as data: what abstracts and READMEs say in words.

Every single published figure is a statement too; those are read from `results/published.csv`
(`bench.evidence.figures`). Importing this imports no torch and no pandas.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from bench.evidence.statement import Statement
from bench.models import family_of
from bench.published import Printed, Subject
from bench.tasks import TESTED_AT

OVERLOCK_ABSTRACT = "arXiv 2502.20087, abstract"
OVERLOCK_README = "LMMMEng/OverLoCK@2c8ab3b README.md, News"
OVERLOCK_ISSUE_19 = "github.com/LMMMEng/OverLoCK/issues/19"
MOGANET_ABSTRACT = "arXiv 2211.03295, abstract"
IMPLIED = "implied, not stated by any author"

WEIGHTS_AND_IMAGENET = "the released weights and ImageNet-1K's validation images"

ONE_THIRD = (7 / 24, 5 / 12)
ONE_THIRD_WHY = "nearer to 1/3 than to 1/4 or 1/2: between 0.292 and 0.417"
MORE = (math.nextafter(0.0, 1.0), math.inf)
FASTER = (math.nextafter(1.0, 2.0), math.inf)

IDENTICAL = 1e-4
"""Largest difference of float32 logits, relative to their root mean square, that rounding explains."""

FEWER_FLOPS = (
    ("overlock_t", "convnext_b"),
    ("overlock_xt", "convnext_t"),
    ("overlock_s", "convnext_b"),
    ("overlock_t", "moganet_s"),
    ("overlock_t", "unireplknet_t"),
)
"""Pairs of models for "fewer FLOPs means faster"; judged where the first has fewer."""


def _of(metric: str, *models: str, **what: str) -> tuple[Subject, ...]:
    return tuple(Subject(model=model, metric=metric, **what) for model in models)


def _abstract() -> Iterable[Statement]:
    for metric, word, unit in (("macs", "FLOPs", "G"), ("params", "parameters", "M")):
        yield Statement(
            id=f"one-third-{metric}",
            text=f"OverLoCK-T uses around one third of ConvNeXt-B's {word}",
            group="OverLoCK",
            subjects=_of(metric, "overlock_t", "convnext_b"),
            factors=(1, -1),
            combine="product",
            printed=(Printed("0.33", "x", OVERLOCK_ABSTRACT, f"one-third of the {word}, {unit}"),),
            accepted=ONE_THIRD,
            states="around one third",
            tolerance=ONE_THIRD_WHY,
            unit="x",
        )
    yield Statement(
        id="t-over-convnext-b",
        text="OverLoCK-T surpasses ConvNeXt-B in ImageNet-1K top-1",
        group="OverLoCK",
        subjects=_of("top1", "overlock_t", "convnext_b", form=""),
        factors=(1, -1),
        printed=(Printed("0.4", "points", OVERLOCK_ABSTRACT, "84.2 against 83.8 of ConvNeXt's README"),),
        accepted=MORE,
        states="84.2 against 83.8 %",
        tolerance="any lead; the figures of 84.2 and 83.8 are statements of their own",
        unit="points",
        needs=WEIGHTS_AND_IMAGENET,
    )
    yield Statement(
        id="t-miou-over-unireplknet-t",
        text="With UperNet on ADE20K OverLoCK-T improves on UniRepLKNet-T by 1.7 mIoU",
        group="OverLoCK",
        subjects=_of("miou", "overlock_t", "unireplknet_t", form="", task="segmentation", head="upernet",
                     resolution=TESTED_AT["segmentation"]),
        factors=(1, -1),
        printed=(Printed("1.7", "points", OVERLOCK_ABSTRACT),),
        accepted=(1.6, 1.8),
        tolerance="1.7 is the difference of two figures rounded to 0.1: within 0.1",
        unit="points",
        needs="the released UperNet weights and ADE20K's validation images (UniRepLKNet-T's UperNet file is not in "
        "results/weights.csv)",
    )  # fmt: skip
    yield Statement(
        id="s-ap-over-moganet-b",
        text="With Cascade Mask R-CNN on COCO OverLoCK-S surpasses MogaNet-B by 1.0 box AP",
        group="OverLoCK",
        subjects=_of("box AP", "overlock_s", "moganet_b", form="", task="detection", head="cascade",
                     resolution=TESTED_AT["detection"]),
        factors=(1, -1),
        printed=(Printed("1.0", "points", OVERLOCK_ABSTRACT),),
        accepted=(0.9, 1.1),
        tolerance="1.0 is the difference of two figures rounded to 0.1: within 0.1",
        unit="points",
        not_measurable="no weights of OverLoCK with Cascade Mask R-CNN are released",
    )  # fmt: skip


def _reparameterised() -> Iterable[Statement]:
    for size in ("xt", "t", "s", "b"):
        model = f"overlock_{size}"
        yield Statement(
            id=f"reparam-function-{size}",
            text=f"Re-parameterised {_name(model)} computes what the training form computes",
            group="OverLoCK",
            subjects=_of("deploy_difference", model),
            printed=(Printed("0", "", OVERLOCK_README, "identical performance: the function's part of it"),),
            accepted=(0.0, IDENTICAL),
            states="identical",
            tolerance=f"float32 logits agree to {IDENTICAL:g} of their root mean square, on random weights; this is "
            "about the method, not about the released _reparam files",
        )
        yield Statement(
            id=f"reparam-top1-{size}",
            text=f"The released re-parameterised {_name(model)} file has the top-1 of the released training form",
            group="OverLoCK",
            subjects=(
                Subject(model=model, metric="top1", form="", weights=f"{model}_in1k_224_reparam.pth"),
                Subject(model=model, metric="top1", form="train"),
            ),
            factors=(1, -1),
            printed=(Printed("0.0", "points", OVERLOCK_README, "identical performance: the files' part of it"),),
            accepted=(-0.03, 0.03),
            states="identical",
            tolerance="within 0.03 points: the same images, other roundings",
            unit="points",
            needs="both released files and ImageNet-1K's validation images (no sum of the _reparam file is known)",
        )


def _resolutions() -> Iterable[Statement]:
    for other in ("convnext_b", "unireplknet_t", "moganet_s"):
        yield Statement(
            id=f"long-range-{other}",
            text="ContMix keeps modelling long ranges when the resolution increases: from 224 to 384, with the same "
            f"weights, OverLoCK-T loses less top-1 than {_name(other)}",
            group="OverLoCK",
            subjects=tuple(
                Subject(model=model, metric="top1", form="", resolution=size)
                for model in ("overlock_t", other)
                for size in ("384", "224")
            ),
            factors=(1, -1, -1, 1),
            printed=(Printed("0", "points", OVERLOCK_ABSTRACT, "stated in words; this reading of it is ours"),),
            accepted=MORE,
            states="a smaller loss",
            tolerance="any smaller loss",
            unit="points",
            needs=WEIGHTS_AND_IMAGENET,
        )


def _speed() -> Iterable[Statement]:
    for first, second in FEWER_FLOPS:
        speeds, macs = _of("throughput", first, second), _of("macs", first, second)
        pair = f"{_name(first)} and {_name(second)}"
        yield Statement(
            id=f"faster-{first}-{second}",
            text=f"Fewer FLOPs means faster, {pair}: the first has the higher throughput",
            group="speed",
            subjects=speeds,
            factors=(1, -1),
            combine="product",
            printed=(Printed("1", "x", IMPLIED, "above 1"),),
            accepted=FASTER,
            states="above 1 x",
            tolerance="the interval of the ratio must exclude 1",
            unit="x",
        )
        yield Statement(
            id=f"proportional-{first}-{second}",
            text=f"Fewer FLOPs means as much faster, {pair}: throughput grows as MACs shrink",
            group="speed",
            subjects=(*speeds, *macs),
            factors=(1, -1, 1, -1),
            combine="product",
            printed=(Printed("1", "x", IMPLIED, "throughput ratio times MAC ratio"),),
            accepted=(0.9, math.inf),
            states="1 x",
            tolerance="throughput ratio times MAC ratio of 0.9 or more",
            unit="x",
        )
    yield Statement(
        id="training-xt-convnext-t",
        text="OverLoCK-XT trains at about a third of ConvNeXt-T's speed",
        group="speed",
        subjects=_of("training", "overlock_xt", "convnext_t", form="train", device="cuda"),
        factors=(1, -1),
        combine="product",
        printed=(Printed("0.34", "x", OVERLOCK_ISSUE_19, "1,700 and 5,000 images/s, 8 RTX 3090"),),
        accepted=ONE_THIRD,
        tolerance=f"{ONE_THIRD_WHY}; of the released code, on other cards and with other kernels than here",
        unit="x",
        needs="a CUDA GPU",
    )


def _moganet() -> Iterable[Statement]:
    yield Statement(
        id="moganet-17m-fewer",
        text="MogaNet-XL saves 17 M parameters against ConvNeXt-L",
        group="MogaNet",
        subjects=_of("params", "convnext_l", "moganet_xl"),
        factors=(1, -1),
        printed=(Printed("17", "M", MOGANET_ABSTRACT),),
        unit="M",
    )
    yield Statement(
        id="moganet-181m",
        text="MogaNet's largest model has 181 M parameters",
        group="MogaNet",
        subjects=_of("params", "moganet_xl"),
        printed=(Printed("181", "M", MOGANET_ABSTRACT),),
        unit="M",
    )


def _name(model: str) -> str:
    return family_of(model).label(model)


STATEMENTS: tuple[Statement, ...] = (
    *_abstract(),
    *_reparameterised(),
    *_resolutions(),
    *_moganet(),
    *_speed(),
)
"""Statements in words, by source; ids are unique."""
