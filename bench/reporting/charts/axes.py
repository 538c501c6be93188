"""An axis whose domain is known here, so that labels can be placed where nothing else is."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


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


def _position(value: float, log: bool) -> float:
    return math.log10(value) if log else value


def _value(position: float, log: bool) -> float:
    return 10.0**position if log else position
