"""The comparisons of the speed table: groups of sides that are measured interleaved, and the ratios read from them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from overlock import VARIANTS
from tests.benchmarks.sides import AGGREGATION, Side


@dataclass(frozen=True)
class Ratio:
    """A row: speed of `side` over that of the fastest of `over`.

    Where `over` has several layouts of one model, the table says which one was faster.
    """

    label: str
    side: Side
    over: tuple[Side, ...]


def layouts(side: Side) -> tuple[Side, Side]:
    return replace(side, layout="NCHW"), replace(side, layout="channels_last")


def sides_of(ratios: tuple[Ratio, ...]) -> list[Side]:
    """Each once, the numerator of a row beside its denominators."""
    return list(dict.fromkeys(side for ratio in ratios for side in (ratio.side, *ratio.over)))


DEPLOYED = {name: Side(name, "deploy") for name in VARIANTS}
T = DEPLOYED["overlock_t"]
CONVNEXT = Side("convnext_b")
SHAPE = f"({', '.join(map(str, AGGREGATION[:5]))}) k={AGGREGATION[5]}"


def _against_convnext(label: str, **conditions: object) -> tuple[Ratio, ...]:
    side, other = (replace(x, **conditions) for x in (T, CONVNEXT))  # type: ignore[arg-type]
    return (Ratio(label, side, layouts(other)),)


GROUPS: dict[str, tuple[Ratio, ...]] = {
    "224": (
        Ratio("OverLoCK-T deploy / ConvNeXt-B, 224, batch 8", T, layouts(CONVNEXT)),
        Ratio(
            "OverLoCK-T deploy / released formulation (training form, reference ContMix, NCHW)",
            T,
            (Side("overlock_t", "reference", "NCHW"),),
        ),
        Ratio("OverLoCK-T training form / ConvNeXt-B, 224, batch 8", Side("overlock_t"), layouts(CONVNEXT)),
        *(
            Ratio(f"{name} deploy / ConvNeXt-B, 224, batch 8", side, layouts(CONVNEXT))
            for name, side in DEPLOYED.items()
            if side != T
        ),
    ),
    "aggregation": (
        Ratio(
            f"aggregation alone {SHAPE}, tiled / unfold", Side("aggregation", "tiled"), (Side("aggregation", "unfold"),)
        ),
    ),
    "bfloat16": _against_convnext("OverLoCK-T deploy / ConvNeXt-B, bfloat16, 224, batch 8", dtype="bfloat16"),
    "training": (
        Ratio(
            "OverLoCK-T training step / ConvNeXt-T training step, 224, batch 8",
            Side("overlock_t", task="training step"),
            layouts(Side("convnext_t", task="training step")),
        ),
    ),
    "384": _against_convnext("OverLoCK-T deploy / ConvNeXt-B, 384, batch 4", height=384, width=384, batch=4),
    "800x1280": _against_convnext("OverLoCK-T deploy / ConvNeXt-B, 800x1280, batch 1", height=800, width=1280, batch=1),
}
"""Name (for `--only`) -> rows; the sides of a group are measured interleaved."""

MEMORY = ("800x1280",)
"""Groups whose table also says how far a call rises above the loaded model's resident set."""
