"""`python -m bench.ade20k`: mean IoU of UperNet on ADE20K's validation set, with each method's own test protocol."""

from __future__ import annotations

from collections.abc import Sequence

from bench import cli
from bench.dense import command
from bench.list import add_list
from bench.tasks import HEADS


def parser() -> cli.Parser:
    about = "Mean IoU of UperNet models on ADE20K's validation set, or on a set of its form."
    p = command.parser("ade20k", about, HEADS["segmentation"], "validation")
    add_list(p)
    p.add_argument("--multi-scale", action="store_true", help="six scales, each mirrored too; probabilities averaged")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    command.check(args, ["torchvision"])
    from bench.dense.ade20k_command import run

    return run(args)


if __name__ == "__main__":
    cli.run("ade20k", main)
