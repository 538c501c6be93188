"""`python -m bench.calibrate`: what differences this machine can see, from a model measured against itself.

One long interleaved measurement of a model against itself gives the spread of a round's ratio, from which that of a
default run and the smallest difference it sees follow; its canaries show how far they move when nothing but the machine
changes. The records are kept under results/<machine>/, where compare and gate read them.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import numpy as np

from bench import cli
from bench.cli import BadInput, Parser
from bench.engine.plan import DEFAULT, Plan
from bench.engine.request import Request, Settings
from bench.engine.sweep import ROUND_SECONDS
from bench.machine.calibration import CANARY, SPREAD, VISIBLE
from bench.progress import progress

if TYPE_CHECKING:
    from bench.engine.outcome import Outcome
    from bench.records.record import Record

LEAST_ROUNDS = 4
CANARY_PERCENTILE = 95
"""The canary's limit: what all but one in twenty of the processes of a calibration stayed below."""


def parser() -> Parser:
    p = Parser(prog="bench.calibrate", description=__doc__)
    add = p.add_argument
    add("--model", default="convnext_t", metavar="MODEL", help="what is measured against itself (default convnext_t)")
    add("--rounds", type=cli.positive, default=15, help="pairs of fresh processes (default 15: three to four minutes)")
    add("--batch-size", type=cli.positive_or_auto, default="auto", metavar="N")
    add("--resolution", type=cli.resolution, default=(224, 224), metavar="SIZE")
    add("--dtype", type=cli.dtype, choices=cli.DTYPES, default="float32")
    cli.add_timing(p)
    add("--no-save", action="store_true", help="print only")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if args.rounds < LEAST_ROUNDS:
        raise BadInput(f"--rounds {args.rounds}: a spread needs {LEAST_ROUNDS} rounds or more")
    from bench.engine.passes import check
    from bench.machine.environment import describe
    from bench.records import store
    from bench.records.record import new_run, stamped

    if not args.no_save:
        store.check()
    settings = Settings.of(args, dtype=args.dtype, batch=args.batch_size)
    checked = check(settings, {"models": [args.model], "settings": asdict(settings), "dtypes": [args.dtype]})
    environment = checked["environment"]
    settings = replace(settings, device=checked["device"]).decided(args.resolution)
    plan = replace(DEFAULT, rounds=args.rounds, canary_limit=math.inf)
    outcome = measured(args.model, args.resolution, settings, plan)
    name = new_run()
    records = [stamped(record, environment, name) for record in records_of(outcome)]
    print(f"Calibration on {describe(environment)}")
    for record in records:
        assert record.value is not None
        shown = f"{record.value:.2%}" if record.unit == "fraction" else f"{record.value:.3e} {record.unit}"
        print(f"  {record.metric}: {shown} ({record.method})")
    if not args.no_save:
        print(f"kept in {store.save(records, environment)}", file=sys.stderr)
    return cli.OK


def measured(model: str, resolution: tuple[int, int], settings: Settings, plan: Plan) -> Outcome:
    """A model against itself."""
    from bench.engine import interleaved
    from bench.models import entry_of

    entry = entry_of(model)
    (form, *_) = entry.forms("deploy")
    sides = [Request(model=entry.name, form=form, resolution=resolution, settings=settings) for _ in range(2)]
    outcome = None
    with progress() as bar:
        bar.total({"round": (plan.rounds, ROUND_SECONDS)})
        for outcome in interleaved.measure(sides, plan=plan, begun=bar.begun):  # noqa: B007 (the one object, growing)
            bar.done("round")
    if outcome is None or len(outcome.round_ratios(0, 1)) < LEAST_ROUNDS:
        why = "; ".join(dict.fromkeys(reason for reasons in outcome.failures for reason in reasons)) if outcome else ""
        raise BadInput(f"{model} cannot be measured against itself: {why or 'no rounds'}")
    return outcome


def records_of(outcome: Outcome) -> list[Record]:
    """The calibration's records, without the environment's part."""
    from bench.engine import figures
    from bench.engine.statistics import smallest_visible

    logs = [math.log(ratio) for ratio in outcome.round_ratios(0, 1)]
    deviation = math.sqrt(sum(x * x for x in logs) / len(logs))  # the truth is known: a ratio of 1
    side = outcome.sides[0]
    base = replace(
        next(figures.records_of(outcome, ["throughput"], [None] * len(outcome.sides))),
        unit="fraction",
        lo=None,
        hi=None,
        against=f"{side.model} {side.form}",
        samples=(),
    )
    rounds = DEFAULT.rounds
    of = f"{len(logs)} rounds of {side.model} against itself"
    replicates = [r for of_side in outcome.replicates for r in of_side if r is not None]
    moves = tuple(r.moved for r in replicates)
    spreads = [
        (SPREAD, deviation / math.sqrt(rounds), rounds, tuple(math.exp(x) for x in logs),
         f"standard deviation of the log-ratio of a run of {rounds} rounds, from {of}"),
        (VISIBLE, smallest_visible(deviation, rounds), rounds, (),
         f"difference that a run of {rounds} rounds sees nine times in ten, from {of}"),
        (CANARY, float(np.percentile(moves, CANARY_PERCENTILE)), len(moves), moves,
         f"{CANARY_PERCENTILE}th percentile of how far the canary moved in {len(moves)} processes"),
    ]  # fmt: skip
    made = [replace(base, metric=metric, value=value, n=n, samples=samples, method=method)
            for metric, value, n, samples, method in spreads]  # fmt: skip
    machine = replace(base, model="machine", form="", against="", notes=(), batch=None, layout="", weights="")
    for metric, unit, work, what in (
        ("peak_macs", "MACs/s", "product", "matrix product"),
        ("copy_bandwidth", "bytes/s", "copy", "copy (bytes read and written)"),
    ):
        rates = tuple(r.last["canary"]["size"][work] / r.last["canary"]["before"][work] for r in replicates)
        method = f"the canary's {what}, best of the calibration's processes"
        made.append(
            replace(machine, metric=metric, unit=unit, value=max(rates), n=len(rates), samples=rates, method=method)
        )
    return made


if __name__ == "__main__":
    cli.run("calibrate", main)
