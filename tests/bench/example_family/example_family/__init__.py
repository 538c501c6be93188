"""What the suite knows of the family. Importing this imports no torch."""

from __future__ import annotations

from pathlib import Path

from bench.families import Family


class Example(Family):
    name = "Example"
    network = "example_family.network"
    sizes = ("t", "s")
    colour = "#cc79a7"
    figures = Path(__file__).with_name("published.csv")

    def release(self, model: str) -> None:
        return None
