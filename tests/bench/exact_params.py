"""Parameters counted on the released structures, as results/published.csv keeps them."""

from __future__ import annotations

import csv

from bench.paths import data_file


def exact_params(network: str) -> dict[str, int]:
    """Parameters by the file's metric (`params_deploy`, ...)."""
    with data_file("published.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["model"] == network and row["task"] == "params"]
    return {row["metric"]: int(row["value"]) for row in rows if row["metric"].startswith("params")}
