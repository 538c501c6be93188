"""`python -m bench.gate`: has a figure moved that must not? Exact figures, speed, accuracy: one tier a call."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench import cli
from bench.cli import BadInput, Parser
from bench.engine.plan import DEFAULT, Plan
from bench.gates import verdict
from bench.gates.verdict import Judgement
from bench.list import add_list
from bench.models import MODELS
from bench.paths import REPOSITORY, data_file
from bench.progress import progress
from bench.project import Project
from bench.project import project as project_here

if TYPE_CHECKING:
    from bench.gates.expected import Figure, Key, Measured

DESCRIPTION = """Judge whether figures moved. --exact recomputes parameters, MACs, names of weights, logits of fixed
weights and allocated memory, and compares them with results/expected.csv. --speed measures this revision beside another
(--base), or the model's speed relative to ConvNeXt-T against the recorded one. --accuracy compares predictions that
bench.top1 kept, image by image."""

EPILOG = """Verdicts: OK; DIFFERS (an exact figure is not the expected one, better or worse); REGRESSION (slower or less
accurate beyond the margin, seen twice); UNDECIDED (with what could have been seen); INVALID (not comparable or not
measurable, with the reason). Exit codes: 0 all OK; 1 something differs or regressed; 2 bad input, something invalid, or
nothing measured; 3 undecided."""


def parser() -> Parser:
    p = Parser(prog="bench.gate", description=DESCRIPTION, epilog=EPILOG)
    tier = p.add_mutually_exclusive_group(required=True)
    tier.add_argument("--exact", action="store_true", help="compare with results/expected.csv")
    tier.add_argument("--speed", action="store_true", help="compare speeds")
    tier.add_argument("--accuracy", type=Path, metavar="PATH", help="compare these predictions (a file or a folder)")
    p.add_argument("--models", nargs="+", metavar="MODEL",
                   help="names, patterns (default: the project's; here all, and overlock_t for --speed)")  # fmt: skip
    add_list(p)
    p.add_argument("--format", choices=verdict.STYLES, default="table")
    p.add_argument("--output", type=Path, metavar="FILE", help="write there too")
    p.add_argument("--all-rows", action="store_true", help="list what is OK as well")

    exact = p.add_argument_group("exact figures").add_argument
    exact("--expected", type=Path, metavar="FILE", help="default: results/expected.csv, or the project's")
    exact("--update", action="store_true", help="write what is measured there, and print what that changes")

    timed = p.add_argument_group("speed")
    speed = timed.add_argument
    speed("--base", metavar="REV", help="the revision to compare with; without it, the recorded ratio to ConvNeXt-T")
    speed("--allow-dirty", action="store_true", help="measure the working tree although it has uncommitted changes")
    speed("--form", choices=("train", "deploy"), default="deploy")
    speed("--resolutions", nargs="+", type=cli.resolution, default=[(224, 224)], metavar="SIZE", help="224 or HxW")
    speed("--batch-size", type=cli.positive_or_auto, default="auto", metavar="N")
    speed("--dtype", type=cli.dtype, choices=cli.DTYPES, default="float32")
    speed("--layout", choices=("auto", "channels_last", "channels_first"), default="channels_last")
    cli.add_timing(timed)
    speed("--rounds", type=cli.positive, default=DEFAULT.rounds, metavar="N", help="before the first verdict")
    speed("--max-rounds", type=cli.positive, default=4 * DEFAULT.rounds, metavar="N", help="before giving up")
    speed("--block", type=cli.above_zero, default=DEFAULT.block, metavar="SECONDS", help="of each timed block")
    speed("--margin", type=cli.above_zero, metavar="FRACTION", help="default: 0.03, or 3 times this machine's spread")
    speed("--results", type=Path, metavar="DIR", help="where calibration and recorded ratios are (default: results/)")
    speed("--machine", metavar="KEY", help="whose recorded ratios to compare with (default: this machine's)")
    speed("--record", action="store_true", help="keep the ratio to ConvNeXt-T for later gates")

    p.add_argument("--against", type=Path, metavar="PATH", help="--accuracy: the earlier predictions")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if args.output:
        cli.check_writable(args.output)
    if args.exact:
        return _exact(args)
    return _accuracy(args) if args.accuracy else _speed(args)


def chosen(names: Sequence[str], project: Project) -> list[str]:
    """Names of models that can have expected figures, each once; a pattern stands for several.

    Those are the suite's, and of another project also what its modules register with timm.

    Raises:
        BadInput: for any other name.
    """
    from bench.models import chosen, unknown

    short = [entry.name for entry in chosen(names)]
    for name in short:
        if name not in MODELS and not project.imports:
            raise unknown(name, hint="only models of the suite, or of a project's own, have figures to compare with")
    return short


def _expected_file(project: Project, update: bool) -> Path:
    """The project's file of expected figures; of a suite that is installed, where no project is, what was installed.

    Raises:
        BadInput: if that were to be written.
    """
    if project.configured or project.expected.parent.parent == REPOSITORY:
        return project.expected
    if update:
        raise BadInput(
            "--update: the figures that were installed with the suite are its own; give --expected FILE, or say "
            f"[tool.overlock-bench] in the pyproject.toml of your project ({project.root} has none)"
        )
    return data_file("expected.csv")


def _exact(args: argparse.Namespace) -> int:
    from bench.files import locked
    from bench.gates import expected

    project = project_here()
    names = chosen(args.models or project.models, project)
    path = args.expected or _expected_file(project, args.update)
    if args.update:
        cli.check_writable(path)
    known = expected.read(path) if path.exists() or not args.update else {}
    if project.imports:
        sys.path.insert(0, str(Path.cwd()))  # as python -m has it, and an installed command does not
    measured = _measured(names, known, project.imports)
    if measured.no_native:
        print(f"no figures of the C kernels were measured or compared: {measured.no_native}", file=sys.stderr)
    gone = [] if args.models else sorted({figure.model for figure in known.values()} - set(names))
    judgements = expected.judge(known, measured, [*names, *gone])
    if not args.update:
        return report("Exact gate", judgements, args)
    with locked(path):  # and read again: another --update may have written other models meanwhile
        known = expected.read(path) if path.exists() else {}
        expected.write(path, expected.updated(known, measured, [*names, *gone]))
    changed = sum(judgement.verdict != verdict.OK for judgement in judgements)
    print(verdict.render("Expected figures that change", judgements, args.format, args.all_rows))
    print(f"wrote {path}: {changed} of {len(measured.figures)} figures changed", file=sys.stderr)
    return cli.OK


SECONDS_OF_A_UNIT = 3.0
"""About what the half of a usual model's figures takes."""


def _measured(names: Sequence[str], known: Mapping[Key, Figure], imports: Sequence[str]) -> Measured:
    """The exact figures; a step is a model, which takes the longer the more parameters it has, by the file's count."""
    from bench.gates import exact

    sizes = {figure.model: float(figure.value) for figure in known.values() if figure.metric == "params"}
    usual = sum(sizes.values()) / len(sizes) if sizes else 1.0
    work = {name: 1 + sizes.get(name, usual) / usual for name in names}
    steps = exact.steps(names)
    with progress() as bar:
        bar.total(
            {kind: (len(models), SECONDS_OF_A_UNIT) for kind, models in steps.items()},
            {kind: sum(work[model] for model in models) for kind, models in steps.items()},
        )

        def done(kind: str, model: str) -> None:
            bar.begun(f"{model}, {kind}")
            bar.done(kind, work[model])

        bar.begun(f"{len(names)} models")
        return exact.measure(names, done, imports)


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

    project = project_here()
    asked = speed_tier.SpeedGate(
        models=chosen(args.models or project.speed_models, project),
        form=args.form,
        resolutions=args.resolutions,
        settings=Settings.of(
            args, dtype=args.dtype, layout=args.layout, batch=args.batch_size, imports=project.imports
        ),
        plan=Plan(rounds=args.rounds, block=args.block),
        most=args.max_rounds,
        results=args.results or project.results,
        project=project,
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
