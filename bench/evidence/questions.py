"""Questions that a reader of the published figures would ask, and that no author answered: measurements do.

A question is no claim: its answer is YES or NO, and says nothing of anybody's statements. Importing this imports no
torch and no pandas.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from bench.evidence.statement import Premise, Statement, subjects
from bench.evidence.statements import REPEATED, WEIGHTS_AND_IMAGENET
from bench.names import label
from bench.published import Subject

GROUP = "questions"

PAIRS = (
    ("overlock_t", "convnext_b"),
    ("overlock_s", "convnext_b"),
    ("overlock_xt", "convnext_t"),
    ("moganet_s", "overlock_t"),
    ("unireplknet_t", "overlock_t"),
)
"""Models of neighbouring accuracy; the first has fewer multiply-adds, which is checked."""

ABOVE_0 = (math.nextafter(0.0, 1.0), math.inf)
ABOVE_1 = (math.nextafter(1.0, 2.0), math.inf)
INTERVAL = "answered where the interval of the paired ratio is on one side of 1"


def fewer_flops(first: str, second: str) -> Iterable[Statement]:
    """Whether a network with fewer multiply-adds than another is faster, and by as much as they are fewer."""
    speeds, macs = subjects("throughput", first, second), subjects("macs", first, second)
    premise = Premise(text=f"{label(first)} has fewer MACs than {label(second)}", subjects=(macs[0], macs[1]), unit="G")
    rate = "throughput ratio times MAC ratio; "
    for kind, asked, figures, how in (
        ("faster", "is it faster?", speeds, ""),
        ("proportional", "does it do at least as many MACs a second?", (*speeds, *macs), rate),
    ):
        yield Statement(
            id=f"{kind}-{first}-{second}",
            text=f"{premise.text}: {asked}",
            group=GROUP,
            question=True,
            premises=(premise,),
            subjects=figures,
            factors=(1, -1) * (len(figures) // 2),
            combine="product",
            accepted=ABOVE_1,
            tolerance=f"{how}{INTERVAL}",
            unit="x",
        )


def _higher_resolution(model: str, other: str) -> Statement:
    return Statement(
        id=f"long-range-{other}",
        text=f"From 224 to 384 pixels with the same weights: does {label(model)} lose less top-1 than {label(other)}?",
        group=GROUP,
        question=True,
        subjects=tuple(
            Subject(model=name, metric="top1", form="", resolution=size)
            for name in (model, other)
            for size in ("384", "224")
        ),
        factors=(1, -1, -1, 1),
        accepted=ABOVE_0,
        tolerance=f"beyond the {2 * REPEATED:g} points by which repeated evaluations of all four may differ; the "
        "abstract (arXiv 2502.20087) says that ContMix models long ranges when the resolution increases, and no more",
        noise=2 * REPEATED,
        unit="points",
        needs=WEIGHTS_AND_IMAGENET,
    )


def _training() -> Statement:
    return Statement(
        id="training-xt-convnext-t",
        text="Does OverLoCK-XT train at more than half of ConvNeXt-T's speed?",
        group=GROUP,
        question=True,
        subjects=subjects("training", "overlock_xt", "convnext_t", form="train", device="cuda"),
        factors=(1, -1),
        combine="product",
        accepted=(0.5, math.inf),
        tolerance="answered where the interval of the paired ratio is on one side of 0.5; a user of the released code "
        "saw 1,700 and 5,000 images/s on 8 RTX 3090 (github.com/LMMMEng/OverLoCK/issues/19): other code, other cards",
        unit="x",
        needs="a CUDA GPU",
    )


QUESTIONS: tuple[Statement, ...] = (
    *(question for pair in PAIRS for question in fewer_flops(*pair)),
    *(_higher_resolution("overlock_t", other) for other in ("convnext_b", "unireplknet_t", "moganet_s")),
    _training(),
)
"""All of them; ids are unique, also among statements."""
