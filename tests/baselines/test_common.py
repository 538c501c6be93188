"""Parameter counts against the published figures."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
import timm
import torch

import baselines

PUBLISHED = Path(__file__).parents[2] / "results" / "published.csv"
EXPLAINED = {
    # published figures that the released weights themselves (their names and shapes) don't have
    ("moganet_xt", "2.97"): 2_956_066,
    ("moganet_b", "43.9"): 43_720_475,
    ("moganet_xl", "180.8"): 180_991_924,
}


def published_params() -> list[tuple[str, str]]:
    """(model, millions as printed) of every classification row about a model that is registered here."""
    with PUBLISHED.open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["task"] == "classification" and r["metric"] == "params"]
    assert {r["unit"] for r in rows} == {"M"}
    names = {(r["model"].split(".")[0], r["value"]) for r in rows}  # the same network, whatever the pretraining
    return sorted(pair for pair in names if pair[0] in baselines.MODELS)


def as_printed(count: int, figure: str) -> set[str]:
    """`count` in millions with the decimals of `figure`, rounded to nearest and down: sources do either."""
    scale = 10 ** len(figure.partition(".")[2])
    return {
        f"{rounded(count / 1e6 * scale) / scale:.{len(figure.partition('.')[2])}f}" for rounded in (round, math.floor)
    }


def test_every_model_has_a_published_count() -> None:
    assert {name for name, _ in published_params()} == set(baselines.MODELS)


@pytest.mark.parametrize(("name", "figure"), published_params())
def test_parameters(name: str, figure: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    if name.startswith("unireplknet"):
        model = model.to_deploy()  # the form whose cost is published
    count = sum(p.numel() for p in model.parameters())
    if (name, figure) in EXPLAINED:
        assert count == EXPLAINED[name, figure]
        assert figure not in as_printed(count, figure), "no longer a contradiction: drop it from the list"
    else:
        assert figure in as_printed(count, figure)
