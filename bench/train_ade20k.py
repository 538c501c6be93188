"""`python -m bench.train_ade20k`: fine-tune UperNet on ADE20K by the published schedule (160,000 iterations).

On eight GPUs: torchrun --nproc-per-node 8 -m bench.train_ade20k --model overlock_t --data PATH --output t.pth
"""

from __future__ import annotations

from collections.abc import Sequence

from bench import cli
from bench.dense import command
from bench.tasks import HEADS


def parser() -> cli.Parser:
    about = "Fine-tune UperNet on ADE20K's training set, or on a set of its form."
    p = command.training_parser("train_ade20k", about, HEADS["segmentation"], "training")
    p.add_argument("--iterations", type=cli.positive, default=160_000)
    p.add_argument("--lr", type=cli.number, default=6e-5, help="for --batch-size 16 (default: 6e-5)")
    p.add_argument("--weight-decay", type=cli.number, default=0.01)
    p.add_argument("--warmup", type=cli.natural, default=1500, metavar="N", help="iterations, linear (default: 1500)")
    p.add_argument("--crop", type=cli.positive, default=512, metavar="SIDE")
    p.add_argument("--long", type=cli.positive, default=2048, help="long side that an image is scaled to fit")
    p.add_argument("--short", type=cli.positive, default=512, help="short side that an image is scaled to fit")
    p.add_argument("--factors", nargs=2, type=cli.number, default=(0.5, 2.0), metavar=("LOW", "HIGH"),
                   help="range of the random factor of that scale")  # fmt: skip
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    command.check_training(args, ["torchvision"])
    if not 0 < args.factors[0] <= args.factors[1]:
        raise cli.BadInput(f"--factors {args.factors[0]:g} {args.factors[1]:g}: give a range LOW HIGH above 0")
    from bench.dense.training.run import segmentation

    return segmentation(args)


if __name__ == "__main__":
    cli.run("train_ade20k", main)
