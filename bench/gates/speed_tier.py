"""What `bench.gate --speed` does with its arguments: revisions, margin, recorded ratios; then row by row."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.cli import BadInput, Resolution
from bench.engine.plan import Plan
from bench.engine.request import Request, Settings
from bench.gates import margins, speed, worktrees
from bench.gates.verdict import Judgement
from bench.machine import calibration
from bench.models import ANCHOR, entry_of
from bench.progress import Progress
from bench.project import Project
from bench.records import store
from bench.records.record import Record, new_run, stamped

ROW = "row"
ROUND_SECONDS = 5.0
"""About what a round of two sides takes."""


@dataclass(frozen=True, kw_only=True)
class SpeedGate:
    """What `bench.gate --speed` is asked for.

    Args:
        models, form, resolutions: what is timed; `form` of models that have it.
        settings: their conditions; the device and the batch may still be `auto`.
        plan: of a first run; the canary's limit is this machine's.
        most: rounds before a row is given up as undecided.
        base: the revision to compare with; the recorded ratios to the anchor where None.
        allow_dirty: whether the working tree may have uncommitted changes.
        margin: as a fraction; the machine's where None.
        results: the folder of calibrations and recorded ratios.
        machine: whose recorded ratios to compare with; this one's where None.
        record: whether to keep the ratios to the anchor.
        project: whose revisions are compared.
    """

    models: Sequence[str]
    form: str
    resolutions: Sequence[Resolution]
    settings: Settings
    plan: Plan
    most: int
    results: Path
    project: Project
    base: str | None = None
    allow_dirty: bool = False
    margin: float | None = None
    machine: str | None = None
    record: bool = False


def run(asked: SpeedGate, bar: Progress) -> tuple[str, list[Judgement]]:
    """The title of the report, and a verdict for each row.

    Raises:
        BadInput: if there is no such revision, the tree is dirty, or this machine was never calibrated.
    """
    revisions = _revisions(asked.project, asked.base, asked.allow_dirty) if asked.base else None
    if asked.record:
        store.check(asked.results)
    from bench.machine.device import choose_device
    from bench.machine.environment import collect

    device = choose_device(asked.settings.device, [asked.settings.dtype])
    asked = replace(asked, settings=replace(asked.settings, device=device))
    environment = collect(device, asked.settings.threads)
    machine = str(environment["machine"])
    margin = asked.margin or margins.of_machine(machine, asked.results)
    calibrated = calibration.latest(machine, asked.results)
    bar.say(calibration.sentence(calibrated))
    plan = replace(asked.plan, canary_limit=calibration.canary_limit(calibrated, asked.plan.canary_limit))
    rules = speed.Rules(margin=margin, plan=plan, most=asked.most, begun=bar.begun, say=bar.say)
    rows = _rows(asked)
    bar.total({ROW: (len(rows), plan.rounds * ROUND_SECONDS)})
    if revisions is not None:
        return _against_base(revisions, asked.project, rows, rules, bar)
    return _beside_anchor(asked, rows, rules, environment, bar)


def _rows(asked: SpeedGate) -> list[Request]:
    """What is timed, row by row."""
    rows = []
    for size, model in itertools.product(asked.resolutions, asked.models):
        settings = asked.settings.decided(size)
        forms = entry_of(model).forms(asked.form)
        rows += [Request(model=model, form=form, resolution=size, settings=settings) for form in forms]
    return rows


@dataclass(frozen=True)
class Revisions:
    """The two commits to compare, and whether the working tree is measured instead of the second."""

    base: str
    tip: str
    dirty: bool

    def __str__(self) -> str:
        return f"{self.tip[:12]}{' with uncommitted changes' if self.dirty else ''} against {self.base[:12]}"


def _revisions(project: Project, base_name: str, allow_dirty: bool) -> Revisions:
    base, changed = worktrees.commit_of(base_name, project.root), worktrees.uncommitted(project)
    if changed and not allow_dirty:
        shown = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
        raise BadInput(
            f"uncommitted changes in {shown}: commit them, or give --allow-dirty to measure the working tree"
        )
    return Revisions(base, worktrees.commit_of("HEAD", project.root), bool(changed))


def _against_base(
    revisions: Revisions, project: Project, rows: Sequence[Request], rules: speed.Rules, bar: Progress
) -> tuple[str, list[Judgement]]:
    rules.say(f"{revisions}: margin {rules.margin:.1%}")
    judgements = []
    commits = [revisions.base] if revisions.dirty else [revisions.base, revisions.tip]
    inside = Path(worktrees.git("rev-parse", "--show-prefix", repository=project.root)) / project.source
    with worktrees.checked_out(*commits, repository=project.root) as roots:
        roots = [*(root / inside for root in roots), project.root / project.source][:2]
        for row in rows:
            judgements.append(speed.against_base(*speed.revisions_of(row, roots), rules))
            bar.done(ROW)
    return f"Speed gate, {revisions}", judgements


def _beside_anchor(
    asked: SpeedGate, rows: Sequence[Request], rules: speed.Rules, environment: dict[str, Any], bar: Progress
) -> tuple[str, list[Judgement]]:
    machine = asked.machine or str(environment["machine"])
    folder = asked.results / machine
    recorded: list[Record] = store.read(folder) if folder.is_dir() else []
    if not recorded and not asked.record:
        others = ", ".join(path.name for path in store.machines(asked.results)) or "none"
        raise BadInput(f"{folder} has no records (machines recorded: {others}): give --record, --machine or --base")
    here = str(environment["machine"])
    ratios = [replace(r, machine=here) for r in recorded if r.metric == speed.RATIO]  # of --machine: meant to compare
    run = new_run()
    judgements, records = [], []
    for row in rows:
        anchor = replace(row, model=ANCHOR, form=entry_of(ANCHOR).forms(row.form)[0])
        planned = stamped(speed.planned(row, anchor), environment, run)
        judgement, record = speed.beside_anchor(row, anchor, planned, ratios, rules, asked.record)
        judgements.append(judgement)
        records.append(record)
        bar.done(ROW)
    title = f"Speed gate beside {ANCHOR}, against the records of {machine}"
    if asked.record:
        measured = [record for record in records if record.valid and record.value is not None]
        rules.say(f"recorded in {store.save(measured, environment, asked.results)}")
    return title, judgements
