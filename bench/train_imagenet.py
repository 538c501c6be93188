"""`python -m bench.train_imagenet`: train a classifier by OverLoCK's published recipe, on any class folders.

On eight GPUs: torchrun --nproc-per-node 8 -m bench.train_imagenet --model overlock_t --data PATH --output run
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench import cli
from bench.cli import BadInput

DESCRIPTION = """Train a model on the folders train and val of --data, each with a folder for each class. The defaults
are the recipe that OverLoCK's released weights were trained by; stochastic depth is the model's own. A stopped run goes
on from --output, to the same weights as one that was not stopped."""


def parser() -> cli.Parser:
    p = cli.Parser(prog="bench.train_imagenet", description=DESCRIPTION)
    add = p.add_argument
    add("--model", required=True, metavar="NAME", help="short name or timm name")
    add("--data", type=Path, required=True, metavar="PATH", help="a folder with train and val (or validation)")
    add("--output", type=Path, required=True, metavar="FOLDER", help="last.pth, best.pth, log.csv; goes on from them")
    add("--weights", default="random", metavar="PATH", help="random (default), released, or a checkpoint to fine-tune")
    add("--epochs", type=cli.positive, default=300, metavar="N", help="of the falling cosine (default: 300)")
    add("--cooldown", type=cli.natural, default=10, metavar="N", help="epochs at the least rate after it (default: 10)")
    add("--warmup", type=cli.natural, default=5, metavar="N", help="epochs, linear (default: 5)")
    add("--batch-size", type=cli.positive, default=2048, metavar="N", help="images of all processes (default: 2048)")
    add("--lr", type=cli.number, default=1e-3, help="for 1024 images a batch, and in proportion (default: 1e-3)")
    add("--warmup-lr", type=cli.number, default=1e-6, help="what the warm-up starts from (default: 1e-6)")
    add("--min-lr", type=cli.number, default=1e-5, help="what the cosine falls to (default: 1e-5)")
    add("--weight-decay", type=cli.number, default=0.05, help="default: 0.05")
    add("--decay", choices=("published", "weights"), default="published",
        help="what decays: all that has two axes, as published, or weights of layers alone")  # fmt: skip
    add("--clip", type=cli.number, default=5.0, metavar="NORM", help="largest norm of gradients; 0: none (default: 5)")
    add("--drop-path", type=cli.share, metavar="RATE", help="stochastic depth (default: the model's)")
    add("--drop", type=cli.share, default=0.0, metavar="RATE", help="dropout before the last layer (default: 0)")
    add("--aux-weight", type=cli.number, metavar="X", help="of the auxiliary head's loss; 0: no head (default: 0.4)")
    add("--ema-decay", type=cli.share, default=0.9999, metavar="X", help="of averaged weights; 0: none (0.9999)")
    add("--resolution", type=cli.resolution, default=(224, 224), metavar="SIZE", help="224 (default), or HxW")
    add("--augment", default="rand-m9-mstd0.5-inc1", metavar="NAME", help="timm's name of it; none: flips and crops")
    add("--erase", type=cli.share, default=0.25, metavar="P", help="probability of random erasing (default: 0.25)")
    add("--mixup", type=cli.number, default=0.8, metavar="ALPHA", help="default: 0.8; 0: none")
    add("--cutmix", type=cli.number, default=1.0, metavar="ALPHA", help="default: 1.0; 0: none")
    add("--smoothing", type=cli.share, default=0.1, help="of labels (default: 0.1)")
    add("--num-classes", type=cli.positive, metavar="N", help="default: the folders'")
    add("--checkpointing", action="store_true", help="keep the blocks' inputs alone: less memory, more time")
    add("--seed", type=cli.natural, default=42)
    add("--validate-every", type=cli.positive, default=1, metavar="N", help="epochs (default: 1)")
    add("--every", type=cli.positive, default=1000, metavar="N", help="steps between states, besides each epoch's end")
    add("--print-every", type=cli.positive, default=50, metavar="N", help="steps between lines (default: 50)")
    cli.add_device(p, ("float32", "bfloat16"), "of autocast (published: float16)", workers=4)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if args.weights not in ("random", "released") and not Path(args.weights).is_file():
        raise BadInput(f"--weights {args.weights}: there is no such file: give one, released or random")
    if not args.augment:
        raise BadInput("--augment is empty: give timm's name of a policy, or none")
    if args.output.exists() and not args.output.is_dir():
        raise BadInput(f"--output {args.output} is a file: give a folder")
    from bench.training.run import run

    return run(args)


if __name__ == "__main__":
    cli.run("train_imagenet", main)
