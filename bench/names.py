"""Names as papers write them, for pictures and papers; tables and commands keep the short ones."""

from __future__ import annotations

from bench.models import MODELS, family_of


def label(model: str) -> str:
    """`OverLoCK-T` for `overlock_t`; a network of timm's that has no short name here is called as timm calls it."""
    return family_of(model).label(model) if model in MODELS else model


def size(model: str) -> str:
    """`T` for `overlock_t`; the whole name where it has no short one."""
    return model.rpartition("_")[2].upper() if model in MODELS else model


def sized(resolution: str) -> str:
    """A resolution as people write it: `800 x 1280` for `800x1280`."""
    return resolution.replace("x", " x ")
