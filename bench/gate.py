"""`python -m bench.gate`: has a figure moved that must not? Exact figures, speed, accuracy: one tier a call."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import cli
from bench.cli import BadInput, Parser
from bench.engine.plan import DEFAULT
from bench.gates import verdict
from bench.gates.verdict import Judgement
from bench.models import MODELS, find
from bench.progress import progress

DESCRIPTION = """Judge whether figures moved. --exact recomputes parameters, MACs, names of weights, logits of fixed
weights and allocated memory, and compares them with results/expected.csv. --speed measures this revision beside another
(--base), or the model's speed relative to ConvNeXt-T against the recorded one. --accuracy compares predictions that
bench.top1 kept, image by image."""

EPILOG = """Verdicts: OK; DIFFERS (an exact figure is not the expected one, better or worse); REGRESSION (slower or less
accurate beyond the margin, seen twice); UNDECIDED (with what could have been seen); INVALID (not comparable or not
measurable, with the reason). Exit codes: 0 all OK; 1 something differs or regressed; 2 bad input, something invalid, or
nothing measured; 3 undecided."""

SPEED_MODELS = ("overlock_t",)


def parser() -> Parser:
    p = Parser(prog="bench.gate", description=DESCRIPTION, epilog=EPILOG)
    tier = p.add_mutually_exclusive_group(required=True)
    tier.add_argument("--exact", action="store_true", help="compare with results/expected.csv")
    tier.add_argument("--speed", action="store_true", help="compare speeds")
    tier.add_argument("--accuracy", type=Path, metavar="PATH", help="compare these predictions (a file or a folder)")
    p.add_argument("--models", nargs="+", metavar="MODEL", help="default: all for --exact, overlock_t for --speed")
    p.add_argument("--format", choices=verdict.STYLES, default="table")
    p.add_argument("--output", type=Path, metavar="FILE", help="write there too")
    p.add_argument("--all-rows", action="store_true", help="list what is OK as well")

    exact = p.add_argument_group("exact figures").add_argument
    exact("--expected", type=Path, metavar="FILE", help="default: results/expected.csv")
    exact("--update", action="store_true", help="write what is measured there, and print what that changes")

    speed = p.add_argument_group("speed").add_argument
    speed("--base", metavar="REV", help="the revision to compare with; without it, the recorded ratio to ConvNeXt-T")
    speed("--allow-dirty", action="store_true", help="measure the working tree although it has uncommitted changes")
    speed("--form", choices=("train", "deploy"), default="deploy")
    speed("--resolutions", nargs="+", type=cli.resolution, default=[(224, 224)], metavar="SIZE", help="224 or HxW")
    speed("--batch-size", type=cli.positive_or_auto, default="auto", metavar="N")
    speed("--dtype", type=cli.dtype, choices=("float32", "tf32", "bfloat16", "float16"), default="float32")
    speed("--layout", choices=("auto", "channels_last", "channels_first"), default="channels_last")
    speed("--device", type=cli.device, default="auto")
    speed("--threads", type=cli.positive, metavar="N", help="CPU threads (default: the physical cores available)")
    speed("--rounds", type=cli.positive, default=DEFAULT.rounds, metavar="N", help="before the first verdict")
    speed("--max-rounds", type=cli.positive, default=4 * DEFAULT.rounds, metavar="N", help="before giving up")
    speed("--block", type=_above_zero, default=DEFAULT.block, metavar="SECONDS", help="of each timed block")
    speed("--margin", type=_above_zero, metavar="FRACTION", help="default: 0.03, or 3 times the machine's A/A spread")
    speed("--results", type=Path, metavar="DIR", help="where calibration and recorded ratios are (default: results/)")
    speed("--machine", metavar="KEY", help="whose recorded ratios to compare with (default: this machine's)")
    speed("--record", action="store_true", help="keep the ratio to ConvNeXt-T for later gates")

    p.add_argument("--against", type=Path, metavar="PATH", help="--accuracy: the earlier predictions")
    return p


def _above_zero(text: str) -> float:
    """A number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if args.output:
        cli.check_writable(args.output)
    if args.exact:
        return _exact(args)
    return _accuracy(args) if args.accuracy else _speed(args)


def chosen(names: Sequence[str]) -> list[str]:
    """Short names of registered models, each once; `all` for every one.

    Raises:
        BadInput: for a name that is not registered: only registered models have figures to compare with.
    """
    from bench.models import unknown

    short: dict[str, None] = {}
    for name in names:
        entry = find(name)
        if entry is None and name != "all":
            raise unknown(name, hint="only models of the suite have figures to compare with")
        short |= dict.fromkeys(MODELS if entry is None else [entry.name])
    return list(short)


def _exact(args: argparse.Namespace) -> int:
    from bench.files import locked
    from bench.gates import exact, expected
    from bench.records.store import results_folder

    path = args.expected or results_folder() / "expected.csv"
    if args.update:
        cli.check_writable(path)
    names = chosen(args.models or ["all"])
    known = expected.read(path) if path.exists() or not args.update else {}
    with progress() as bar:
        bar.total(exact.steps(names))
        measured = exact.measure(names, bar.done)
    if measured.no_native:
        print(f"no figures of the C kernels were measured or compared: {measured.no_native}", file=sys.stderr)
    gone = [] if args.models else sorted({figure.model for figure in known.values()} - set(names))
    judgements = expected.judge(known, measured.figures, [*names, *gone], measured.capability, measured.skipped)
    if not args.update:
        return report("Exact gate", judgements, args)
    with locked(path):  # and read again: another --update may have written other models meanwhile
        known = expected.read(path) if path.exists() else {}
        expected.write(
            path, expected.updated(known, measured.figures, [*names, *gone], measured.capability, measured.skipped)
        )
    changed = sum(judgement.verdict != verdict.OK for judgement in judgements)
    print(verdict.render("Expected figures that change", judgements, args.format, args.all_rows))
    print(f"wrote {path}: {changed} of {len(measured.figures)} figures changed", file=sys.stderr)
    return cli.OK


def _accuracy(args: argparse.Namespace) -> int:
    from bench.gates import accuracy

    if args.against is None:
        raise BadInput("--accuracy PATH: give --against PATH with the earlier predictions")
    return report(
        "Accuracy gate", accuracy.judge(accuracy.collect(args.accuracy), accuracy.collect(args.against)), args
    )


def _speed(args: argparse.Namespace) -> int:
    from bench.engine.request import Settings
    from bench.gates import speed_tier
    from bench.machine.environment import physical_cores
    from bench.records.store import results_folder

    asked = speed_tier.SpeedGate(
        models=chosen(args.models or SPEED_MODELS),
        form=args.form,
        resolutions=args.resolutions,
        settings=Settings(
            device=args.device,
            dtype=args.dtype,
            layout=args.layout,
            batch=args.batch_size,
            threads=args.threads or physical_cores(),
        ),
        rounds=args.rounds,
        most=args.max_rounds,
        block=args.block,
        results=args.results or results_folder(),
        base=args.base,
        allow_dirty=args.allow_dirty,
        margin=args.margin,
        machine=args.machine,
        record=args.record,
    )
    with progress() as bar:
        title, judgements = speed_tier.run(asked, bar)
    return report(title, judgements, args)


def report(title: str, judgements: Sequence[Judgement], args: argparse.Namespace) -> int:
    """Print the verdicts, write them to `--output`, and return the exit code."""
    text = verdict.render(title, judgements, args.format, args.all_rows)
    print(text)
    if args.output:
        cli.write(args.output, text)
    if not judgements:
        raise BadInput("nothing was judged: none of what was asked for has figures; give other --models")
    return verdict.exit_code(judgements)


if __name__ == "__main__":
    cli.run("gate", main)
