"""Which two records may be compared, and why any others may not. Importing this imports no torch and no pandas.

Figures are compared where everything that bears on them is equal: a cost figure's structure and counter; of a measured
one also the hardware, the device, dtype, layout, batch, compile mode, backend and threads; of an accuracy the data set.
What a comparison is usually about (the code, library versions, weights) may differ, and is listed by `differences`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.metrics import BATCHED, MEMORY, find
from bench.records.record import Record

IDENTITY = ("model", "metric", "task", "head", "variant", "resolution")
"""What makes two records figures of the same thing."""

NOTHING = "nothing of the kind was recorded"

MAY_DIFFER = ("commit", "dirty", "torch", "timm", "python", "driver", "weights", "method")


def conditions(record: Record) -> tuple[str, ...]:
    """The fields that must be equal to this record's for a figure to be comparable with it.

    Those that its metric depends on; of a metric that is not known here all that any depends on.
    """
    metric = find(record.metric)
    names = (*(metric.depends_on if metric else BATCHED), "unit", "against")
    if metric and metric.cost:
        names = (*names, "counter")
    if metric and metric.kind == MEMORY:
        names = (*names, "method")  # two ways to see a peak of memory see different peaks
    return tuple(name for name in names if name not in IDENTITY)


def refusal(ours: Record, theirs: Record) -> str:
    """Why two records of the same thing cannot be compared, with both values; empty if they can."""
    reasons = []
    for name in dict.fromkeys((*IDENTITY, *conditions(ours), *conditions(theirs))):
        a, b = _field(ours, name), _field(theirs, name)
        if a != b:
            reasons.append(f"{name} {_shown(a)} against {_shown(b)}")
    for whose, record in (("", ours), ("the recorded ", theirs)):
        if not record.valid:
            reasons.append(f"{whose}figure is not valid ({'; '.join(record.reasons) or 'no reason given'})")
        elif record.value is None:
            reasons.append(f"{whose}figure has no value")
    return "; ".join(reasons)


def covers(theirs: Record, planned: Record) -> bool:
    """Whether a recorded figure is one of what is planned; what the plan leaves open (empty, auto) may be anything."""
    names = dict.fromkeys((*IDENTITY, *conditions(planned)))
    asked = [name for name in names if _field(planned, name) not in ("", None, "auto")]
    return theirs.value is not None and all(_field(planned, name) == _field(theirs, name) for name in asked)


def differences(ours: Record, theirs: Record) -> tuple[str, ...]:
    """What differs between two comparable records and may: the code, libraries, weights, as `name theirs -> ours`."""
    pairs = [(name, getattr(theirs, name), getattr(ours, name)) for name in MAY_DIFFER]
    return tuple(f"{name} {_shown(a)} -> {_shown(b)}" for name, a, b in pairs if a != b)


@dataclass(frozen=True)
class Pairing:
    """Two sets of records side by side: `pairs` of (ours, theirs); ours that are `refused`, each with the reason."""

    pairs: tuple[tuple[Record, Record], ...]
    refused: tuple[tuple[Record, str], ...]


def pair(ours: Sequence[Record], theirs: Sequence[Record]) -> Pairing:
    """Pair each of our records with the latest of theirs that it may be compared with; of equal times the last one."""
    recorded: dict[tuple[str, ...], list[Record]] = {}
    for record in theirs:
        recorded.setdefault(_identity(record), []).append(record)
    pairs, refused = [], []
    for record in ours:
        candidates = recorded.get(_identity(record), [])
        comparable = [other for other in candidates if not refusal(record, other)]
        if comparable:
            pairs.append((record, max(reversed(comparable), key=lambda other: other.time)))
        else:  # by the recorded one that is the nearest
            reasons = [refusal(record, other) for other in reversed(candidates)]
            refused.append((record, min(reasons, key=lambda reason: reason.count(";"), default=NOTHING)))
    return Pairing(tuple(pairs), tuple(refused))


def _identity(record: Record) -> tuple[str, ...]:
    return tuple(getattr(record, name) for name in IDENTITY)


def _field(record: Record, name: str) -> object:
    if name == "device":
        return record.device.partition(":")[0]  # which of several is the machine's, and equal cards are equal
    return getattr(record, name)


def _shown(value: object) -> str:
    return "none" if value in ("", None) else str(value)
