"""`python -m bench.top1`: ImageNet top-1 of several models at several resolutions, from one pass over the images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from bench import cli
from bench.cli import BadInput, Parser
from bench.list import add_list
from bench.models import ANCHOR, FORMS, MODELS, baseline_of, chosen, named

DATASETS = ("imagenet", "imagenet-v2", "imagenet-a", "imagenet-r", "imagenet-sketch", "custom")
DTYPES = ("float32", "tf32", "bfloat16", "float16", "amp-bfloat16", "amp-float16")

DESCRIPTION = f"""Top-1 and top-5 of models with released weights, each under its own evaluation recipe, with per-image
predictions kept and models compared image by image. Models: {", ".join(MODELS)}; all (these); patterns; timm names."""

EPILOG = """On several GPUs: torchrun --nproc-per-node N -m bench.top1 ... with these arguments. A stopped run
goes on where it was, when started again. Exit codes: 0 every row is valid, or random weights were asked for; 2 bad
input, or a row that is not valid; 130 stopped by Ctrl-C (what was counted is kept)."""


def parser() -> Parser:
    p = Parser(prog="bench.top1", description=DESCRIPTION, epilog=EPILOG)
    add = p.add_argument
    add("--models", nargs="+", default=[], metavar="MODEL", help="short names, timm names, patterns, or all")
    add_list(p)
    add("--data", type=Path, metavar="PATH", help="class folders, flat files (with --labels), .tar, Parquet or Arrow")
    add("--labels", type=Path, metavar="FILE", help="ground truth of flat files: NAME LABEL lines, or labels in order")
    add("--dataset", choices=DATASETS, default="imagenet", help="which set it is (default: the 50,000 of ImageNet)")
    add("--num-classes", type=cli.positive, metavar="N", help="of checkpoints, for --dataset custom (default: 1000)")
    add("--real", nargs="?", const="", metavar="FILE", help="ReaL labels as well (default: the copy in timm)")
    add("--resolutions", nargs="+", type=cli.resolution, metavar="SIZE", help="224 or HxW (default: each model's own)")
    add("--recipe", choices=("own", "common"), default="own", help="each model's (default), or one crop for all")
    add("--crop-pct", type=partial(cli.above_zero, most=1.0), metavar="X", help="instead of the recipe's")
    add("--baseline", metavar="MODEL",
        help=f"model to compare with (default: the last of --models; of a pattern, {ANCHOR})")  # fmt: skip
    add("--form", choices=(*FORMS, "both"), default="deploy", help="re-parameterised (default), as trained, or both")
    add("--weights", nargs="+", default=[], metavar="[MODEL=]PATH", help="checkpoint, or random (default: released)")
    cli.add_device(p, DTYPES, "weights and inputs are cast to it; amp-...: autocast", workers=4)
    add("--layout", choices=("channels_first", "channels_last"), default="channels_first")
    add("--compile", action="store_true", help="run through torch.compile")
    add("--backend", default="auto", metavar="NAME", help="implementation of ContMix (default: auto)")
    add("--batch-size", type=cli.positive, default=128, metavar="N", help="images a batch (default: 128)")
    add("--allow-missing", type=cli.natural, default=0, metavar="N", help="images that may be absent or unreadable")
    add("--results", type=Path, default=Path("top1-results"), metavar="DIR", help="predictions, a folder for each run")
    add("--compare", nargs=2, type=Path, metavar="FILE", help="only compare two predictions.npz of earlier runs")
    cli.add_output(p)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if args.compare:
        from bench.accuracy.paired import compare
        from bench.accuracy.predictions import read

        print(compare(*(read(path / "predictions.npz" if path.is_dir() else path) for path in args.compare)))
        return cli.OK
    if not args.models or args.data is None:
        raise BadInput("give --models and --data (or --compare and two files of predictions)")
    if args.num_classes and args.dataset != "custom":
        raise BadInput(f"--num-classes {args.num_classes}: {args.dataset} has its own: give --dataset custom with it")
    names = [entry.name for entry in chosen(args.models)]
    baseline = baseline_of(args.baseline, args.models, names)
    weights = weights_of(args.weights, names)
    if args.output:
        cli.check_writable(args.output)
    from bench.published import published
    from bench.records import store

    published()  # a damaged file is refused here, not when all is evaluated
    if args.save:
        store.check()
    from bench.accuracy.command import run

    return run(args, weights, baseline)


def weights_of(given: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """Short name -> `released`, `random` or a path, from `PATH`, `random`, `MODEL=PATH`, `MODEL=random`."""
    weights = dict.fromkeys(names, "released")
    for text in given:
        name, sign, value = text.partition("=")
        if not sign and text != "random" and len(names) > 1:
            raise BadInput(f"--weights {text}: which of {', '.join(names)} is it? give MODEL={text}")
        if sign:
            models: Sequence[str] = [named(name, "--weights", names)]
        else:
            models, value = names, text
        if value not in ("random", "released") and not Path(value).is_file():
            raise BadInput(f"--weights {text}: there is no file {value}")
        weights |= dict.fromkeys(models, value)
    return weights


if __name__ == "__main__":
    cli.run("top1", main)
