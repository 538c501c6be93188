"""`python -m bench.list`: the models by family, with their sizes, forms, parameters and evaluation recipes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from bench import cli
from bench.cli import Parser

EPILOG = """Any timm model name works where these do; names may be patterns ('overlock_*'), and all stands for every one
of these. The published parameters and top-1 are of the recipe's resolution."""
FORMATS = ("table", "markdown", "csv")


class ShowList(argparse.Action):
    """`--list` of a command: print the models and end."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(listed("table"))
        parser.exit(cli.OK)


def add_list(p: Parser) -> None:
    """The option `--list`."""
    p.add_argument("--list", action=ShowList, nargs=0, help="list the models with their forms and recipes, and end")


def parser() -> Parser:
    p = Parser(prog="bench.list", description=(__doc__ or "").partition(": ")[2].capitalize(), epilog=EPILOG)
    p.add_argument("--models", nargs="+", default=["*"], metavar="MODEL", help="short names or patterns (all)")
    p.add_argument("--format", choices=FORMATS, default="table")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    print(listed(args.format, args.models))
    return cli.OK


def listed(style: str, names: Sequence[str] = ("*",)) -> str:
    """The table of models, a row each.

    Raises:
        BadInput: for a name that is neither the suite's nor timm's.
    """
    from bench.accuracy.recipes import recipe_for
    from bench.loading import resolve
    from bench.models import chosen
    from bench.published import beside, shown
    from bench.render import by_heading

    rows = []
    for entry in map(resolve, (entry.name for entry in chosen(names))):
        recipe = recipe_for(entry)
        side = str(recipe.geometry.size[0])
        rows.append({
            "family": entry.family.name,
            "model": entry.name,
            "also": " ".join(entry.aliases),
            "forms": " ".join(entry.family.forms),
            "parameters M (published)": shown(beside("params", entry.name, side)),
            "top-1 % (published)": shown(beside("top1", entry.name, side)),
            "evaluated at": str(recipe),
        })  # fmt: skip
    return by_heading(rows, style, words=4)


if __name__ == "__main__":
    cli.run("list", main)
