"""Breakdowns of few parts, in an order and in colours that stay."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from bench.families import FAMILIES
from bench.profile import operators
from bench.reporting.charts import breakdown
from bench.reporting.data import Report, gather
from tests.bench.reporting.made_records import kept, timed


def test_at_most_eight_series_in_the_networks_order(committed: Report) -> None:
    found = breakdown.charts(committed)
    assert found
    for chart in found:
        for panel in chart.spec["vconcat"]:
            parts = panel["encoding"]["color"]["scale"]["domain"]
            assert len(parts) <= breakdown.SERIES
            assert panel["encoding"]["x"]["title"]
            if panel["title"] == "by stage":
                assert parts[:3] == ["stage 1", "stage 2", "stage 3"]
                assert [part for part in parts if "focus" in part] in ([], ["focus stage 3", "focus stage 4"])
        shares: dict[tuple[str, str], float] = {}
        for point in chart.spec["data"]["values"]:
            key = point["by"], point["of"]
            shares[key] = shares.get(key, 0.0) + point["share"]
        assert all(share == pytest.approx(1) for share in shares.values()), "nothing is lost by joining"


def test_the_smallest_of_many_parts_are_joined(tmp_path: Path) -> None:
    made = [
        timed("resnet50", f"breakdown/{by}/time/part{i}", 1.0 + i) for by in ("operator", "stage") for i in range(12)
    ]
    (chart,) = breakdown.charts(gather(kept(tmp_path / "results", made)))
    parts = chart.spec["vconcat"][1]["encoding"]["color"]["scale"]["domain"]
    assert len(parts) == breakdown.SERIES
    assert parts[-1] == breakdown.REST
    assert "part0" not in parts
    assert "part11" in parts


def test_a_part_has_the_same_colour_in_every_chart(committed: Report) -> None:
    """The head of a network without focusing stages is not in their colour."""
    colours: dict[str, set[str]] = {}
    for chart in breakdown.charts(committed):
        for panel in chart.spec["vconcat"]:
            scale = panel["encoding"]["color"]["scale"]
            assert len(set(scale["range"])) == len(scale["range"])
            for part, colour in zip(scale["domain"], scale["range"], strict=True):
                colours.setdefault(part, set()).add(colour)
    assert {"head", "stage 1", "focus stage 3", "pointwise"} <= set(colours)
    assert not {part: several for part, several in colours.items() if len(several) > 1}


def test_every_kind_of_operator_has_its_colour() -> None:
    kinds = {operators.CONTMIX, operators.DEPTHWISE, operators.POINTWISE, operators.CONVOLUTION, operators.PRODUCT,
             operators.NORM, operators.OTHER}  # fmt: skip
    assert set(breakdown.OPERATORS) == kinds


def linear(colour: str) -> tuple[float, ...]:
    values = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return tuple(v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values)


DEFICIENCIES = {
    "none": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}
"""What colours look like to whom (Machado, Oliveira and Fernandes 2009, full severity), on linear RGB."""


def lab(rgb: tuple[float, ...]) -> tuple[float, float, float]:
    """CIE L*a*b* of linear RGB."""
    to_xyz = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
    xyz = [
        sum(a * b for a, b in zip(row, rgb, strict=True)) / white
        for row, white in zip(to_xyz, (0.9505, 1, 1.089), strict=True)
    ]
    x, y, z = (v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in (max(v, 0.0) for v in xyz))
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
@pytest.mark.parametrize(
    "colours", [breakdown.COLOURS, tuple(f.colour for f in FAMILIES.values())], ids=["parts", "families"]
)
def test_colours_are_told_apart(deficiency: str, colours: tuple[str, ...]) -> None:
    """By a colour-blind reader too: bars by their colour alone, families by their markers as well."""
    matrix = DEFICIENCIES[deficiency]
    seen = [lab(tuple(sum(a * b for a, b in zip(row, linear(c), strict=True)) for row in matrix)) for c in colours]
    least = min(
        sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) ** 0.5
        for one, other in itertools.combinations(seen, 2)
    )
    assert least > (15 if colours is breakdown.COLOURS else 8)
    assert len({f.marker for f in FAMILIES.values()}) == len(FAMILIES)


@pytest.mark.parametrize("paper", ["#ffffff", "#14171a"], ids=["light", "dark"])
def test_families_stand_out_from_the_page(paper: str) -> None:
    def light(colour: str) -> float:
        return sum(a * b for a, b in zip(linear(colour), (0.2126, 0.7152, 0.0722), strict=True))

    for family in FAMILIES.values():
        bright, dim = sorted((light(family.colour), light(paper)), reverse=True)
        assert (bright + 0.05) / (dim + 0.05) >= 3, f"{family.name}: the contrast that WCAG asks of graphics"
