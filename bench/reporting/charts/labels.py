"""Places for the labels of points: beside them, off other points and labels; further off with a line to the point."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

WIDE = 0.66  # of a letter, to the height of the text: wide enough for the sans-serif fonts that are common
TALL = 1.0  # of a line of capitals and digits, to the height of the text
MARKER = 5.5  # half the side of a point's marker, in pixels
NEAR = 3.0  # pixels between a marker and its label
DISTANCES = (0, 6, 12, 18, 26, 34, 44, 56, 70)
"""How much further off a label may be, in pixels: from `LINED` on with a line to its point."""
_EIGHTHS = (0, 8, 12, 4, 14, 10, 2, 6, *range(1, 16, 2))
DIRECTIONS = tuple((math.cos(i * math.pi / 8), math.sin(i * math.pi / 8)) for i in _EIGHTHS)
"""Right, left, above, below, then what lies between them; y grows downwards."""
LINED = 8.0  # from this distance on, a line leads from the label to its point
DOUBT = 1.1  # how much further than its own point's marker any other's must be, or a line leads to its own
DOUBTFUL = 20.0  # what such a place costs
ROUNDS = 4
PER_PLACE = 0.35  # what a place costs more than the one before, where crossing a line costs 2 a pixel


@dataclass(frozen=True)
class Box:
    """A rectangle in a panel, in pixels from its left upper corner."""

    left: float
    top: float
    right: float
    bottom: float

    @classmethod
    def around(cls, x: float, y: float, width: float, height: float) -> Box:
        return cls(x - width / 2, y - height / 2, x + width / 2, y + height / 2)

    def overlap(self, other: Box) -> float:
        """The area that both have."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return width * height if width > 0 and height > 0 else 0.0

    def nearest(self, x: float, y: float) -> XY:
        """The point of the rectangle that is nearest to another."""
        return min(max(x, self.left), self.right), min(max(y, self.top), self.bottom)

    def crossed(self, line: Line) -> float:
        """Pixels of a line in the rectangle, about."""
        (x, y), (to_x, to_y) = line
        beside = max(x, to_x) < self.left or min(x, to_x) > self.right
        if beside or max(y, to_y) < self.top or min(y, to_y) > self.bottom:
            return 0.0
        steps = 24
        inside = sum(
            self.left < x + (to_x - x) * i / steps < self.right and self.top < y + (to_y - y) * i / steps < self.bottom
            for i in range(steps + 1)
        )
        return inside / steps * math.hypot(to_x - x, to_y - y)


XY = tuple[float, float]
Line = tuple[XY, XY]


@dataclass(frozen=True)
class Label:
    """A label's place: its box, and the end of the line that leads to it, if there is one."""

    box: Box
    end: XY | None


def extent(text: str, size: float) -> XY:
    """Width and height of a text in pixels, about."""
    return WIDE * size * len(text), TALL * size


@dataclass(frozen=True)
class Surroundings:
    """What one point's label keeps off."""

    apart: Sequence[XY]  # the other points
    boxes: Sequence[Box]  # their markers, and the labels that have a place
    drawn: Sequence[Line]  # lines of the chart
    leads: Sequence[Line]  # lines that lead to other labels
    panel: XY  # its width and height

    def cheapest(self, point: XY, extent: XY) -> Label:
        """The best of the places, which come in the order of what they cost by themselves.

        Where one of the points `apart` is about as near, a line says whose label it is.
        """
        best: tuple[float, Label] | None = None
        for place, label in _candidates(point, extent):
            if best is not None and best[0] <= PER_PLACE * place:
                break
            doubt = self._doubtful(label.box, point)
            if doubt and label.end is None:
                label = Label(label.box, label.box.nearest(*point))
            cost = self._cost(label, point) + PER_PLACE * place + DOUBTFUL * doubt
            if best is None or cost < best[0]:
                best = cost, label
        assert best is not None, "no place at all"
        return best[1]

    def _doubtful(self, box: Box, point: XY) -> bool:
        """Whether a reader may take it for the label of another point."""
        own = math.dist(box.nearest(*point), point) - MARKER
        return any(math.dist(box.nearest(*other), other) - MARKER < DOUBT * own for other in self.apart)

    def _cost(self, label: Label, point: XY) -> float:
        box, (width, height) = label.box, self.panel
        outside = max(-box.left, -box.top, box.right - width, box.bottom - height, 0.0)
        around = Box(box.left - 1, box.top - 1, box.right + 1, box.bottom + 1)
        covered = sum(around.overlap(other) for other in self.boxes)
        crossed = sum(around.crossed(line) for line in self.drawn)
        by_leads = sum(around.crossed(line) for line in self.leads)
        own = sum(other.crossed((point, label.end)) for other in self.boxes) if label.end else 0.0
        forbidden = 1000 * ((outside > 0) + (covered > 0)) + covered
        return forbidden + 60 * ((by_leads > 0) + (own > 0)) + 2.0 * crossed


def _candidates(point: XY, extent: XY) -> Iterator[tuple[int, Label]]:
    x, y = point
    width, height = extent
    for further in DISTANCES:
        for i, (across, down) in enumerate(DIRECTIONS):
            reach = MARKER + NEAR + further
            box = Box.around(x + across * (reach + width / 2), y + down * (reach + height / 2), width, height)
            end = box.nearest(x, y)
            lined = math.dist(end, point) - MARKER > LINED
            yield further * len(DIRECTIONS) + i, Label(box, end if lined else None)


def place(
    points: Sequence[XY], texts: Sequence[str], size: float, panel: XY, lines: Iterable[Line] = ()
) -> list[Label]:
    """A place for each point's text: within the panel, off all markers and other labels, off lines where that goes.

    Each label in turn takes the cheapest place that is left, several times over, since the later ones move the first.
    """
    markers = [Box.around(x, y, 2 * MARKER, 2 * MARKER) for x, y in points]
    drawn = list(lines)
    placed: dict[int, Label] = {}
    crowded = sorted(range(len(points)), key=lambda i: sum(math.dist(points[i], other) for other in points))
    for _ in range(ROUNDS):
        for i in crowded:
            others = [label for j, label in placed.items() if j != i]
            leads = [(points[j], label.end) for j, label in placed.items() if j != i and label.end is not None]
            boxes = [*markers[:i], *markers[i + 1 :], *(label.box for label in others)]
            apart = [*points[:i], *points[i + 1 :]]
            around = Surroundings(apart, boxes, drawn, leads, panel)
            placed[i] = around.cheapest(points[i], extent(texts[i], size))
    return [placed[i] for i in range(len(points))]
