"""`python -m bench.train_coco`: fine-tune Mask R-CNN or a cascade on COCO by the published schedules.

On eight GPUs, 1x: torchrun --nproc-per-node 8 -m bench.train_coco --model overlock_t --data PATH --output t.pth
3x: --epochs 36 --shorts 480 512 544 576 608 640 672 704 736 768 800
"""

from __future__ import annotations

from collections.abc import Sequence

from bench import cli
from bench.dense import command
from bench.tasks import HEADS


def parser() -> cli.Parser:
    about = "Fine-tune Mask R-CNN or a cascade on COCO's train2017, or on a set of its format."
    p = command.training_parser("train_coco", about, HEADS["detection"], "train2017")
    p.add_argument("--epochs", type=cli.positive, default=12, help="12 (1x, default) or 36 (3x)")
    p.add_argument("--lr", type=cli.number, default=2e-4, help="for --batch-size 16 (default: 2e-4)")
    p.add_argument("--weight-decay", type=cli.number, default=0.05)
    p.add_argument("--warmup", type=cli.natural, default=500, metavar="N", help="iterations, linear (default: 500)")
    p.add_argument("--clip", type=cli.number, metavar="NORM", help="largest norm of the gradient (default: none)")
    p.add_argument("--long", type=cli.positive, default=1333, help="long side that an image is scaled to fit")
    p.add_argument("--shorts", nargs="+", type=cli.positive, default=[800], metavar="SIDE",
                   help="short sides, one of which is drawn for each image (default: 800)")  # fmt: skip
    p.add_argument("--roi-samples", type=cli.positive, default=512, metavar="N", help="boxes an image, each stage")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    command.check_training(args, ["torchvision", "pycocotools"])
    from bench.dense.training.run import detection

    return detection(args)


if __name__ == "__main__":
    cli.run("train_coco", main)
