"""What the dense commands share: arguments, their checks, models with their weights, and tables."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cli import BadInput, Parser, add_device, add_output, check_writable, natural, need, part, positive, share
from bench.models import is_pattern, matching

if TYPE_CHECKING:
    from torch import nn

    from bench.dense.categories import Classes
    from bench.records.record import Record

RANDOM, RELEASED = "random", "released"


def _parser(command: str, about: str, heads: Sequence[str], dtypes: Sequence[str], split: str) -> Parser:
    """The arguments that evaluation and training both take."""
    p = Parser(prog=f"bench.{command}", description=about)
    p.add_argument("--data", type=Path, required=True, metavar="PATH", help="the data set's folder")
    p.add_argument("--split", type=part, default=split, metavar="NAME", help=f"the set's part (default: {split})")
    p.add_argument("--categories", metavar="N|FILE",
                   help="of a set of your own: how many, or a file of them, `ID NAME` a line or JSON")  # fmt: skip
    p.add_argument("--head", choices=heads, default=heads[0])
    add_device(p, dtypes, "of autocast", workers=2)
    return p


def parser(command: str, about: str, heads: Sequence[str], split: str) -> Parser:
    """The arguments of evaluation."""
    p = _parser(command, about, heads, ("float32", "bfloat16", "float16"), split)
    p.add_argument("--models", nargs="+", required=True, metavar="NAME", help="short names, timm names or patterns")
    p.add_argument("--weights", nargs="+", required=True, metavar="PATH",
                   help=f"a released whole checkpoint for each model, in their order, or '{RANDOM}'")  # fmt: skip
    p.add_argument("--form", choices=("deploy", "train"), default="deploy", help="merged for inference, or as released")
    p.add_argument("--results", type=Path, default=Path(f"{command}-results"), metavar="DIR",
                   help="per-image results, a folder a model; a stopped run goes on from them")  # fmt: skip
    p.add_argument("--resamples", type=positive, default=200, help="of the paired comparison's interval")
    add_output(p)
    return p


def training_parser(command: str, about: str, heads: Sequence[str], split: str) -> Parser:
    """The arguments of training."""
    p = _parser(command, about, heads, ("float32", "bfloat16"), split)
    p.add_argument("--model", required=True, metavar="NAME", help="short name or timm name of the backbone")
    p.add_argument("--weights", default=RELEASED, metavar="PATH",
                   help="to start from: a classifier's checkpoint, or a whole one of this model and head; "
                        f"'{RELEASED}' (the classifier's, default) or '{RANDOM}'")  # fmt: skip
    p.add_argument("--batch-size", type=positive, default=16, metavar="N", help="images of all processes together")
    p.add_argument("--drop-path", type=share, metavar="RATE", help="of the backbone (default: the classifier's)")
    p.add_argument("--seed", type=natural, default=0)
    p.add_argument("--output", type=Path, required=True, metavar="FILE",
                   help="the whole checkpoint; a stopped run goes on from it")  # fmt: skip
    p.add_argument("--every", type=positive, default=1000, metavar="N", help="iterations between checkpoints")
    p.add_argument("--print-every", type=positive, default=50, metavar="N", help="iterations between lines of losses")
    return p


def check(args: argparse.Namespace, packages: Iterable[str]) -> None:
    """Everything about an evaluation that can be seen to be wrong before a model is built.

    Raises:
        BadInput: naming it.
    """
    need("this", "dense", *packages)
    args.models = [name for given in args.models for name in (matching(given) if is_pattern(given) else [given])]
    if len(args.weights) != len(args.models):
        raise BadInput(
            f"{len(args.models)} models but {len(args.weights)} --weights: give one file (or {RANDOM}) for each model"
        )
    if len(set(args.models)) != len(args.models):
        raise BadInput("--models names a model twice")
    for weights in args.weights:
        if weights != RANDOM and not os.path.isfile(weights):
            raise BadInput(f"no weights at {weights}: give --weights a file, or '{RANDOM}'")
    if args.output is not None:
        check_writable(args.output)


def check_training(args: argparse.Namespace, packages: Iterable[str]) -> None:
    """The same of a training.

    Raises:
        BadInput: naming it.
    """
    need("this", "dense", *packages)
    if args.weights not in (RANDOM, RELEASED) and not os.path.isfile(args.weights):
        raise BadInput(f"no weights at {args.weights}: give --weights a file, '{RELEASED}' or '{RANDOM}'")
    check_writable(args.output)


def load_model(name: str, head: str, weights: str, form: str, on: str, classes: Classes) -> tuple[nn.Module, str]:
    """A dense model, ready to run, and the label of its weights (their SHA-256, or `random:0`).

    Raises:
        BadInput: if a checkpoint is unreadable, another model's, or of other classes.
    """
    import torch

    from bench.dense.build import build_dense
    from bench.dense.weights import check_classes, deploy_dense, load_dense, read_checkpoint
    from bench.loading import weights_label

    path = None if weights == RANDOM else Path(weights)
    torch.manual_seed(0)
    model = build_dense(name, head, "train", classes=len(classes))
    if path is not None:
        state = read_checkpoint(path)
        check_classes(model, state, path, classes)
        load_dense(model, state, str(path))
    if form == "deploy":
        model = deploy_dense(model)
    return model.eval().to(on), weights_label(path, 0)


def render(records: Sequence[Record], differences: Sequence[str], environment: dict[str, Any], style: str) -> str:
    """A table with a row for each model; below it, what makes figures invalid, and the comparisons."""
    from bench.evaluation import report

    rows: dict[str, dict[str, report.Cell]] = {}
    for record in records:
        row = rows.setdefault(record.model, {"model": record.model, "form": record.form, "head": record.head})
        row |= {"test": record.variant or "single scale"} if record.task == "segmentation" else {}
        row[record.metric] = record.value
    table = [row | report.last_columns(next(r for r in records if r.model == model)) for model, row in rows.items()]
    invalid = dict.fromkeys(f"{r.model} is not valid: {reason}" for r in records for reason in r.reasons)
    notes = dict.fromkeys(note for record in records for note in record.notes)
    return report.render(records, table, [*invalid, *differences, *notes], differences, environment, style)
