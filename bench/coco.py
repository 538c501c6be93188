"""`python -m bench.coco`: box and mask AP of Mask R-CNN and Cascade Mask R-CNN on COCO's validation set."""

from __future__ import annotations

from collections.abc import Sequence

from bench import cli
from bench.dense import command
from bench.list import add_list
from bench.tasks import HEADS


def parser() -> cli.Parser:
    about = "Box and mask AP on COCO 2017 val, or on a set of its format. 'cascade' is the published 4conv1fc one."
    p = command.parser("coco", about, HEADS["detection"], "val2017")
    add_list(p)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    command.check(args, ["torchvision", "pycocotools"])
    from bench.dense.coco_command import run

    return run(args)


if __name__ == "__main__":
    cli.run("coco", main)
