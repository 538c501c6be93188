"""What `bench.gate --speed` does with its arguments: revisions, margin, recorded ratios; then row by row."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.cli import BadInput
from bench.engine.job import Settings, automatic_batch
from bench.engine.side import Plan, Side
from bench.gates import margins, speed, worktrees
from bench.gates.verdict import Judgement
from bench.machine import calibration
from bench.machine.environment import physical_cores
from bench.models import MODELS
from bench.paths import REPOSITORY
from bench.records import store
from bench.records.record import Record, new_run, stamped

Told = Callable[[str], None]
Row = tuple[str, str, tuple[int, int]]  # model, form, resolution


def run(args: Any, models: Sequence[str], told: Told, progress: Told) -> tuple[str, list[Judgement]]:
    """The title of the report, and a verdict for each row.

    Raises:
        BadInput: if there is no such revision, the tree is dirty, or this machine was never calibrated.
    """
    revisions = _revisions(args) if args.base else None
    from bench.machine.device import choose_device
    from bench.machine.environment import collect

    results = args.results or store.results_folder()
    device = choose_device(args.device)
    settings = Settings(
        device=device,
        dtype=args.dtype,
        layout=args.layout,
        batch=args.batch_size,
        threads=args.threads or physical_cores(),
    )
    environment = collect(device, settings.threads)
    machine = str(environment["machine"])
    margin = args.margin or margins.of_machine(machine, results)
    calibrated = calibration.latest(machine)
    told(calibration.sentence(calibrated))
    limit = calibration.canary_limit(calibrated, Plan().canary_limit)
    plan = Plan(rounds=args.rounds, block=args.block, canary_limit=limit)
    rules = speed.Rules(margin=margin, plan=plan, most=args.max_rounds, progress=progress)
    rows = [
        (model, form, size)
        for size, model in itertools.product(args.resolutions, models)
        for form in MODELS[model].forms(args.form)
    ]
    if revisions is not None:
        return _against_base(revisions, rows, settings, rules, told)
    return _beside_anchor(args, rows, settings, rules, environment, results, told)


def _settings(settings: Settings, size: tuple[int, int]) -> Settings:
    if settings.batch != "auto":
        return settings
    return replace(settings, batch=automatic_batch(settings.device, size))


@dataclass(frozen=True)
class Revisions:
    """The two commits to compare, and whether the working tree is measured instead of the second."""

    base: str
    tip: str
    dirty: bool

    def __str__(self) -> str:
        return f"{self.tip[:12]}{' with uncommitted changes' if self.dirty else ''} against {self.base[:12]}"


def _revisions(args: Any) -> Revisions:
    base, changed = worktrees.commit_of(args.base), worktrees.uncommitted()
    if changed and not args.allow_dirty:
        shown = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
        raise BadInput(
            f"uncommitted changes in {shown}: commit them, or give --allow-dirty to measure the working tree"
        )
    return Revisions(base, worktrees.commit_of("HEAD"), bool(changed))


def _against_base(
    revisions: Revisions, rows: Sequence[Row], settings: Settings, rules: speed.Rules, told: Told
) -> tuple[str, list[Judgement]]:
    told(f"{revisions}: margin {rules.margin:.1%}")
    judgements = []
    commits = [revisions.base] if revisions.dirty else [revisions.base, revisions.tip]
    with worktrees.checked_out(*commits) as roots:
        for model, form, size in rows:
            pair = speed.sides(model, form, size, _settings(settings, size), [*roots, REPOSITORY][:2])
            judgements.append(speed.against_base(*pair, rules, told))
    return f"Speed gate, {revisions}", judgements


def _beside_anchor(
    args: Any,
    rows: Sequence[Row],
    settings: Settings,
    rules: speed.Rules,
    environment: dict[str, Any],
    results: Path,
    told: Told,
) -> tuple[str, list[Judgement]]:
    machine = args.machine or str(environment["machine"])
    folder = results / machine
    recorded: list[Record] = store.read(folder) if folder.is_dir() else []
    if not recorded and not args.record:
        others = ", ".join(path.name for path in store.machines(results)) or "none"
        raise BadInput(f"{folder} has no records (machines recorded: {others}): give --record, --machine or --base")
    here = str(environment["machine"])
    ratios = [replace(r, machine=here) for r in recorded if r.metric == speed.RATIO]  # of --machine: meant to compare
    run = new_run()
    judgements, found = [], []
    for model, form, size in rows:
        sides = [
            Side(model=name, form=kind, resolution=size, settings=_settings(settings, size))
            for name, kind in ((model, form), (speed.ANCHOR, MODELS[speed.ANCHOR].forms(form)[0]))
        ]
        planned = stamped(speed.planned(*sides), environment, run)
        judgement, record = speed.beside_anchor(sides[0], sides[1], planned, ratios, rules, args.record)
        judgements.append(judgement)
        found.append(record)
    title = f"Speed gate beside {speed.ANCHOR}, against the records of {machine}"
    if args.record:
        path = store.save(
            [record for record in found if record.valid and record.value is not None], environment, results
        )
        told(f"recorded in {path}")
    return title, judgements
