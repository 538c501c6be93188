"""`python -m bench.compare`: cost, speed, memory and energy of models on this machine, beside what is published."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import cli
from bench.cli import BadInput, Parser
from bench.engine import runtimes
from bench.engine.plan import DEFAULT, QUICK, Plan
from bench.engine.request import Settings
from bench.list import add_list
from bench.metrics import ASKED, METRICS
from bench.metrics import DEFAULT as DEFAULT_METRICS
from bench.models import ANCHOR, FORMS, MODELS, baseline_of, checkpoint, chosen
from bench.progress import progress
from bench.render import as_csv, below
from bench.scratch import scratch
from bench.tasks import head_of

if TYPE_CHECKING:
    from bench.engine.runner import Runner
    from bench.records.record import Record

DEFAULT_SIZES = {"classification": (224, 224), "segmentation": (512, 512), "detection": (800, 1280)}
COMPILE = ("none", "default", "reduce-overhead", "max-autotune", "cudagraph")

DESCRIPTION = f"""Compare models on this machine: parameters, MACs, throughput, memory and more, with the published
figures beside them. Models: {", ".join(MODELS)}; all (these), patterns ('overlock_*'), or any timm model name."""

EPILOG = """A model without re-parameterisation has one form, listed as deploy. Models are timed in turn, in processes
of their own, over rounds; the ratio's interval is over rounds. Exit codes: 0 measured; 2 bad input, or no figure is
valid (of those that are measured; of the counts, where nothing else was asked for); 130 stopped by Ctrl-C (what was
measured is printed)."""


def parser() -> Parser:
    p = Parser(prog="bench.compare", description=DESCRIPTION, epilog=EPILOG)
    add = p.add_argument
    add("--models", nargs="+", required=True, metavar="MODEL", help="short names, timm names, patterns, or all")
    add_list(p)
    add("--baseline", metavar="MODEL",
        help=f"model that ratios refer to (default: the last of --models; of a pattern, {ANCHOR})")  # fmt: skip
    add("--resolutions", nargs="+", type=cli.resolution, metavar="SIZE", help="224 (default), or HxW")
    add("--metrics", nargs="+", choices=ASKED, default=list(DEFAULT_METRICS), metavar="METRIC",
        help=f"{', '.join(ASKED)} (default: {' '.join(DEFAULT_METRICS)})")  # fmt: skip
    add("--form", choices=(*FORMS, "both"), default="deploy", help="re-parameterised (default), as trained, or both")
    cli.add_timing(p)
    add(
        "--dtypes",
        "--dtype",
        nargs="+",
        type=cli.dtype,
        choices=cli.DTYPES,
        default=["float32"],
        metavar="DTYPE",
        help="of weights and inputs: float32 (default), tf32, bfloat16, float16",
    )
    add("--layout", choices=("auto", "channels_last", "channels_first"), default="auto", help="auto: the faster")
    add("--batch-sizes", "--batch-size", nargs="+", type=cli.positive_or_auto, default=["auto"], metavar="N",
        help="auto (default): by device and resolution; latency is always of one image")  # fmt: skip
    add("--compile", choices=COMPILE, default="none", help="a mode of torch.compile, or one CUDA graph")
    add("--runtime", choices=(runtimes.PYTORCH, *runtimes.PACKAGES), default=runtimes.PYTORCH,
        help="of all models: pytorch (default), or exported and run by onnxruntime or openvino on the CPU")  # fmt: skip
    add("--backend", default="auto", metavar="NAME", help="implementation of ContMix (default: auto)")
    add("--weights", nargs="+", default=[], metavar="MODEL=PATH", help="checkpoints (default: random weights)")
    add("--import", nargs="+", default=[], dest="imports", metavar="MODULE", help="import these, which register models")
    add("--task", choices=tuple(DEFAULT_SIZES), default="classification", help="with that task's head on the backbone")
    add("--head", default="", metavar="NAME", help="of --task detection: maskrcnn (default), cascade, cascade_2fc")
    add("--rounds", type=cli.positive, metavar="N", help="of each model (default: by --precision and --time)")
    add("--precision", type=cli.percent, metavar="P%", help="half width of the ratios' intervals to aim at (5%%)")
    add("--time", type=cli.seconds, default=60.0, metavar="S", help="seconds of each group of models (default: 60)")
    add("--memory-budget", type=cli.positive, metavar="MIB", help="for largest_batch (default: what is free)")
    add(
        "--quick",
        action="store_true",
        help="two short rounds, on a CPU of half as many images a call: a rough figure, no verdict on differences",
    )
    add("--breakdown", action="store_true", help="instead, where time, MACs, parameters and activations are")
    add(
        "--resume",
        type=Path,
        metavar="FILE",
        help="keep each figure as it is known in this CSV, or in a folder as under results/; skip what it has",
    )
    add("--against", type=Path, metavar="FILE", help="compare with records kept earlier (CSV, JSON, or a folder)")
    cli.add_output(p)
    add("--sources", action="store_true", help="list the sources of the published figures")
    add("--verbose", action="store_true", help="say below the table what each column is, and all notes")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if args.runtime == runtimes.PYTORCH:
        return run(args)
    fit_to_runtime(args)
    with scratch("onnx") as folder:
        return run(args, str(folder))


def fit_to_runtime(args: argparse.Namespace) -> None:
    """Set what another runtime than PyTorch decides itself.

    Raises:
        BadInput: for an option that it does not have, or if it cannot run here.
    """
    for option, value in (("compile", "none"), ("backend", "auto"), ("layout", "auto"), ("breakdown", False)):
        if getattr(args, option) != value:
            raise BadInput(f"--{option} is PyTorch's, not one of --runtime {args.runtime}: give one of the two")
    if args.metrics == list(DEFAULT_METRICS):
        args.metrics = [metric for metric in args.metrics if runtimes.can_measure(metric)]
    runtimes.check(args.runtime, args.device, args.dtypes, args.metrics, args.task)
    args.device, args.layout, args.compile = "cpu", "channels_first", args.runtime


def run(args: argparse.Namespace, exports: str = "") -> int:
    """Measure what is asked, print and keep it; returns the exit code. Exported files are kept in `exports`."""
    head = head_of(args.task, args.head)
    entries = chosen(args.models)
    names = [entry.name for entry in entries]
    baseline = baseline_of(args.baseline, args.models, names)
    weights = dict(checkpoint(text, names) for text in args.weights)
    if args.output:
        cli.check_writable(args.output)
        if args.resume and args.output.resolve() == args.resume.resolve():
            raise BadInput(f"--output and --resume are both {args.output}: give each a file of its own")
    sizes = list(dict.fromkeys(args.resolutions or [DEFAULT_SIZES[args.task]]))
    metrics = [metric for metric in ASKED if metric in args.metrics]
    what = "breakdown" if args.breakdown else ", ".join(metrics)
    print(f"{', '.join(names)} at {', '.join(map(cli.resolution_name, sizes))}: {what}", file=sys.stderr)
    if len(names) > 1:
        print(f"ratios refer to {baseline}", file=sys.stderr)

    from bench.engine.runner import Runner
    from bench.engine.sweep import Sweep
    from bench.profile.breakdown import BYTES
    from bench.published import published
    from bench.records import store

    published()  # a damaged file is refused here, not when all is measured
    earlier = store.read(args.against) if args.against else []
    if args.resume and args.resume.is_dir():
        store.check(args.resume)
    elif args.resume:
        store.check_appendable(args.resume)
    if args.save:
        store.check()
    settings = Settings.of(
        args,
        dtype=args.dtypes[0],
        layout=args.layout,
        batch=args.batch_sizes[0],
        backend=args.backend,
        compile=args.compile,
        exports=exports,
        imports=tuple(args.imports),
        weights=weights,
        memory_budget=args.memory_budget * 2**20 if args.memory_budget else None,
    )
    sweep = Sweep(
        entries=entries,
        resolutions=sizes,
        form=args.form,
        metrics=metrics,
        settings=settings,
        baseline=baseline,
        batches=list(dict.fromkeys(args.batch_sizes)),
        dtypes=list(dict.fromkeys(args.dtypes)),
        plan=plan_of(args.quick, args.rounds, args.precision, args.time),
        task=args.task,
        head=head,
    )
    if args.breakdown:
        sweep = replace(sweep, metrics=[BYTES], batches=sweep.batches[:1], dtypes=sweep.dtypes[:1])
    journal = Journal(args.resume)
    with progress() as bar:
        runner = Runner(sweep, bar.begun, bar.done, journal, journal.known(), bar.known)
        journal.environment = lambda: runner.environment
        bar.total(sweep.steps())
        try:
            runner.measure()
            interrupted = False
        except KeyboardInterrupt:
            interrupted = True
    code = report(runner, args, interrupted)
    if args.save and runner.records:
        print(f"kept in {store.save(runner.new_records, runner.environment)}", file=sys.stderr)
    if args.against:
        print("\n".join(compared(runner.records, earlier)))
    if journal.error is not None:
        raise journal.error
    return code


class Journal:
    """Keeps each record as soon as it is known, in a file, or in a folder like `results/` with the environments.

    Where that fails, measuring goes on and the error waits.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.error: BadInput | None = None
        self.environment: Callable[[], Mapping[str, Any]] = dict

    def known(self) -> list[Record]:
        """What was kept before."""
        from bench.records import store

        if self.path is None or not self.path.exists():
            return []
        return store.read(self.path) if self.path.is_file() or store.machines(self.path) else []

    def __call__(self, record: Record) -> None:
        from bench.records import store

        if self.path is None or self.error is not None:
            return
        try:
            if self.path.is_dir():
                store.save([record], self.environment(), self.path)
            else:
                store.append(self.path, [record])
        except BadInput as error:
            self.error = error
            print(f"{error}; what is measured is printed at the end", file=sys.stderr)


PRECISION = 0.05


def plan_of(quick: bool, rounds: int | None, precision: float | None, seconds: float) -> Plan:
    """How long to look: a number of rounds if one is given, else until the ratios are precise, or time is over."""
    if quick or rounds:
        plan = QUICK if quick else DEFAULT
        return replace(plan, rounds=rounds or plan.rounds, precision=precision or 0.0)
    return replace(DEFAULT, precision=precision or PRECISION, seconds=seconds)


def compared(ours: Sequence[Record], theirs: Sequence[Record]) -> list[str]:
    """Lines that set each figure beside the recorded one that it may be compared with, or say why there is none."""
    from bench.records.comparability import pair

    pairing = pair([r for r in ours if r.value is not None], theirs)
    lines = ["Against the recorded run:"]
    for now, then in pairing.pairs:
        assert now.value is not None
        change = f"{now.value / then.value - 1:+.1%}" if then.value else ""
        lines.append(
            f"  {now.model} {now.resolution} {now.form} {now.metric}: {then.value:g} -> {now.value:g} {change}"
        )
    for r, reason in pairing.refused:
        lines.append(f"  {r.model} {r.resolution} {r.form} {r.metric}: not compared: {reason}")
    return lines


def report(runner: Runner, args: argparse.Namespace, interrupted: bool) -> int:
    """Show what is known; returns the exit code."""
    from bench.machine.environment import describe
    from bench.profile import breakdown
    from bench.records import record as rec
    from bench.reporting.footnotes import footnotes
    from bench.reporting.rows import as_measured
    from bench.reporting.spreadsheet import wide

    records = runner.records
    if records:

        def text(style: str) -> str:
            if style == "json":
                return rec.to_json(runner.environment, records)
            if args.breakdown:
                return as_csv([r.to_dict() for r in records]) if style == "csv" else breakdown.render(records, style)
            rows = as_measured(records)
            if style == "csv":
                return as_csv(wide(rows, runner.sweep.baseline))
            machine = describe(runner.environment) if runner.environment else ""
            lines = [*footnotes(rows, machine, args.sources, args.verbose), *precision(runner)]
            return f"{tables(records, style, lines[0])}\n\n{below(lines, style)}"

        cli.show(text, args)
    if interrupted:
        print(f"interrupted: {len(records)} figures were measured", file=sys.stderr)
        return cli.INTERRUPTED
    if not any(record.measured for record in records):
        raise BadInput(f"nothing could be measured: {_reasons(records)}")
    asked = [r for r in records if r.metric not in METRICS or not METRICS[r.metric].cost] or records
    if not any(record.valid or record.out_of_memory for record in asked):
        raise BadInput(f"no figure that was measured is valid: {_reasons(asked)}")
    return cli.OK


def _reasons(records: Sequence[Record]) -> str:
    return "; ".join(dict.fromkeys(reason for record in records for reason in record.reasons))


def tables(records: Sequence[Record], style: str, caption: str = "") -> str:
    """What is printed of records: the table of inference, and one of training where that was timed."""
    from bench.reporting.rows import as_measured
    from bench.reporting.tables import comparison

    rows = as_measured(records)
    groups = ([row for row in rows if row.training == training] for training in (False, True))
    return "\n\n".join(comparison(group, style, caption=caption) for group in groups if group)


def precision(runner: Runner) -> list[str]:
    """What differences this run could show, and what this machine's calibration says."""
    from bench.machine.calibration import latest, sentence

    ratios = [r for r in runner.records if r.metric == "throughput_ratio" and r.n]
    lines = []
    if ratios and runner.sweep.plan.rounds < DEFAULT.rounds:
        lines.append(
            f"{runner.sweep.plan.rounds} rounds cannot tell a difference of 5 % from noise: "
            f"a rough figure (without --quick: {DEFAULT.rounds} rounds)."
        )
    if ratios:
        try:
            lines.append(sentence(latest(str(runner.environment.get("machine", "")))))
        except BadInput as error:  # which must not keep what was measured from being shown
            lines.append(f"The calibration of this machine cannot be read: {error}")
    return lines


if __name__ == "__main__":
    cli.run("compare", main)
