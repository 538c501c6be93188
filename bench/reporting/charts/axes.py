"""An axis whose domain is known here, so that labels can be placed where nothing else is."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

STEPS = (
    *((1,), (1, 3), (1, 2, 5), (1, 2, 3, 5), (1, 1.5, 2, 3, 4, 5, 6, 8)),
    *((*range(10, 20, 2), *range(20, 100, 5)), tuple(range(10, 100))),
)
"""Digits of the values that a logarithmic axis may show in each power of ten, from few to many."""
TICKS = 5
"""How many it shows at least, where any of them gives that many."""


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high` on a length of `pixels`; with `up`, the low end is at the bottom (pixel `pixels`)."""

    low: float
    high: float
    pixels: float
    log: bool = False
    up: bool = False

    @classmethod
    def around(cls, values: Iterable[float], pixels: float, room: float, log: bool = False, up: bool = False) -> Axis:
        """The axis that has all values, and `room` pixels beyond the first and the last."""
        ends = [_position(value, log) for value in values]
        low, high = min(ends), max(ends)
        if high - low < 1e-9:  # one value: an axis has a length all the same
            low, high = low - 0.1, high + 0.1
        margin = (high - low) * room / max(pixels - 2 * room, 1.0)
        return cls(_value(low - margin, log), _value(high + margin, log), pixels, log, up)

    def pixel(self, value: float) -> float:
        """Where a value is, from the left or from the top."""
        low, high = _position(self.low, self.log), _position(self.high, self.log)
        share = (_position(value, self.log) - low) / (high - low)
        return self.pixels * (1 - share if self.up else share)

    def value(self, pixel: float) -> float:
        """The value at a place."""
        low, high = _position(self.low, self.log), _position(self.high, self.log)
        share = pixel / self.pixels
        return _value(low + (high - low) * (1 - share if self.up else share), self.log)

    @property
    def scale(self) -> dict[str, Any]:
        """Vega-Lite's scale."""
        kind = {"type": "log"} if self.log else {"type": "linear", "zero": False}
        return {**kind, "domain": [self.low, self.high], "nice": False}

    @property
    def encoding(self) -> dict[str, Any]:
        """Vega-Lite's scale, and of a logarithmic one its ticks: the fewest round values that suffice."""
        values = self._ticks() if self.log else []
        axis = {"axis": {"values": values, "format": "~g", "labelOverlap": False}} if len(values) > 1 else {}
        return {"scale": self.scale, **axis}

    def _ticks(self) -> list[float]:
        decades = range(math.floor(math.log10(self.low)) - 1, math.ceil(math.log10(self.high)) + 1)
        shown: list[float] = []
        for digits in STEPS:
            values = sorted({float(f"{digit}e{power}") for power in decades for digit in digits})
            shown = [value for value in values if self.low <= value <= self.high]
            if len(shown) >= TICKS:
                break
        return shown


def _position(value: float, log: bool) -> float:
    return math.log10(value) if log else value


def _value(position: float, log: bool) -> float:
    return 10.0**position if log else position
