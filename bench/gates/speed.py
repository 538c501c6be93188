"""The speed tier: a revision against another, or against what was recorded, in interleaved fresh processes.

Both ways use the engine of every timed figure (`bench.engine.interleaved`). Against a base, the sides are two
checkouts of this repository under this one's `bench`. Without one, a model is measured beside an anchor, and the ratio
of the two is compared with the recorded ratio: what a slow day does to both cancels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.cli import resolution_name
from bench.engine.interleaved import measure
from bench.engine.outcome import Outcome
from bench.engine.plan import Plan
from bench.engine.request import Request
from bench.engine.statistics import Ratio
from bench.gates.margins import cells, change_of, judgement, verdict
from bench.gates.verdict import INVALID, REGRESSION, UNDECIDED, Judgement
from bench.metrics import THROUGHPUT
from bench.records import comparability
from bench.records.record import Record

RATIO = f"{THROUGHPUT}_ratio"
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How a row is judged: `plan` of a first run, and up to `most` rounds in all before it is given up as undecided.

    `begun` is called with what each process does next, in words, and `say` with what the user should know.
    """

    margin: float
    plan: Plan
    most: int = 18
    begun: Say = lambda what: None
    say: Say = lambda line: None


def against_base(base: Request, tip: Request, rules: Rules) -> Judgement:
    """The verdict on `tip`, a model of this revision, against `base`, the same of another.

    A red of the first run is the verdict only if a second run, with fresh processes throughout, is red too.
    """
    first, judged = _run(base, tip, rules)
    if first is None or judged.verdict != REGRESSION:
        return judged
    rules.say(f"{judged.subject}: slower, once; measured again to confirm")
    second, again = _run(base, tip, rules)
    if second is None:
        return again
    if again.verdict == REGRESSION:
        return replace(again, reason=f"{again.reason}; a first run said {first.value:.3f}")
    return replace(again, reason=f"a first run said {first.value:.3f}, a second did not confirm it; {again.reason}")


def _run(base: Request, tip: Request, rules: Rules) -> tuple[Ratio | None, Judgement]:
    """The ratio of tip to base, None if a side cannot be measured, and the verdict on it."""

    def clear(outcome: Outcome) -> bool:
        ratio = outcome.ratio(1, 0)
        return ratio is not None and verdict(ratio, rules.margin) != UNDECIDED

    outcome = _rounds([base, tip], rules, clear)
    ratio = outcome.ratio(1, 0)
    if ratio is None:
        return None, _invalid(_subject(tip), outcome)
    return ratio, judgement(_subject(tip), THROUGHPUT, ratio, rules.margin)


def _rounds(sides: Sequence[Request], rules: Rules, clear: Callable[[Outcome], bool]) -> Outcome:
    """The plan's rounds, and as many more as it takes to be clear, up to the most."""
    outcome: Outcome | None = None
    while True:
        *_, outcome = measure(sides, rules.plan, rules.begun, outcome)
        if clear(outcome) or outcome.rounds + rules.plan.rounds > rules.most or any(outcome.gone):
            return outcome


def _invalid(subject: str, outcome: Outcome) -> Judgement:
    why = []
    for side, reasons in zip(outcome.sides, outcome.failures, strict=True):
        why += [f"{side.name}: {reason}" for reason in dict.fromkeys(reasons)]
    return Judgement(subject, THROUGHPUT, INVALID, {}, "; ".join(why) or "nothing was measured")


def beside_anchor(
    model: Request, anchor: Request, planned: Record, recorded: Sequence[Record], rules: Rules, recording: bool
) -> tuple[Judgement, Record]:
    """The verdict on a model's speed relative to the anchor's, against the recorded ratio; and the ratio as a record.

    `planned` is the ratio's record without a value, stamped. Where nothing recorded is comparable with it, nothing is
    measured, unless it is to be recorded.
    """
    subject = _subject(model)
    refused = _refused(planned, recorded)
    if refused and not recording:
        return Judgement(subject, RATIO, INVALID, {}, f"no recorded ratio to compare: {refused}"), planned
    outcome = _rounds([model, anchor], rules, lambda outcome: outcome.ratio(0, 1) is not None)
    ratio = outcome.ratio(0, 1)
    if ratio is None:
        return _invalid(subject, outcome), planned
    backend = next((str(replicate.warm.get("backend", "")) for replicate in outcome.of(0)), "")
    record = replace(
        planned, value=ratio.value, lo=ratio.lo, hi=ratio.hi, n=ratio.n, samples=ratio.samples, backend=backend
    )
    paired = comparability.pair([record], recorded)
    if not paired.pairs:
        shown = {"ratio": f"{ratio.value:.3f}"}
        reason = f"no recorded ratio to compare: {paired.refused[0][1]}"
        return Judgement(subject, RATIO, INVALID, shown, reason), record
    ((_, before),) = paired.pairs
    assert before.value is not None
    change = change_of(ratio.samples, before.samples or (before.value,))
    judged = judgement(subject, RATIO, change, rules.margin, "; ".join(comparability.differences(record, before)))
    shown = {"ratio": f"{ratio.value:.3f}", "recorded": f"{before.value:.3f}", **cells(change, rules.margin)}
    return replace(judged, cells=shown), record


def planned(side: Request, anchor: Request) -> Record:
    """The ratio of a side to the anchor as `bench.compare --save` would record it, not yet measured."""
    return replace(side.record(RATIO), against=f"{anchor.model} {anchor.form}")


def _refused(planned: Record, recorded: Sequence[Record]) -> str:
    """Why no recorded ratio can be compared with what is planned, whichever backend will run; empty if one can."""
    backends = dict.fromkeys(record.backend for record in recorded if record.model == planned.model) or {"": None}
    pairings = [comparability.pair([replace(planned, value=1.0, backend=b)], recorded) for b in backends]
    return "" if any(pairing.pairs for pairing in pairings) else pairings[-1].refused[0][1]


def _subject(side: Request) -> str:
    return f"{side.model} {side.form} {resolution_name(side.resolution)}"


def revisions_of(side: Request, roots: Sequence[Path]) -> tuple[Request, Request]:
    """The base's and the tip's side of a row, each of the checkout at its root."""
    base, tip = roots
    return replace(side, root=str(base), label="base"), replace(side, root=str(tip), label="tip")
