"""The times of a run's parts."""

from __future__ import annotations

import pytest

from bench.gpu import parts
from bench.gpu.parts import GRACE, PARTS, RESERVE, START, TIME, budgeted
from overlock.depthwise import dispatch
from overlock.inference import fusions


def test_a_whole_run_ends_within_nine_minutes() -> None:
    chosen = [part for part in PARTS if not part.extra]
    own = START + RESERVE + sum(part.seconds + GRACE for part in chosen if not part.beside)
    assert own < TIME == 540
    (beside,) = (part for part in chosen if part.beside)
    assert beside.seconds <= next(part for part in chosen if part.name == "correctness").seconds
    timed = [part.name for part in chosen if part.module not in ("bench.gpu.warm", "bench.gpu.correctness")]
    assert timed[0] == "headline"


@pytest.mark.parametrize("names", [["headline"], ["contmix", "depthwise"], ["compile"], [p.name for p in PARTS]])
def test_the_parts_that_are_asked_for_share_the_time(names: list[str]) -> None:
    chosen = [part for part in PARTS if part.name in names]
    shared = budgeted(chosen, TIME)
    for part, own in zip(shared, chosen, strict=True):
        assert part.seconds >= own.seconds
    whole = START + RESERVE + sum(part.seconds + GRACE for part in shared)
    assert whole > 0.9 * TIME, "nothing is left over"
    if len(names) < 3:
        assert whole <= TIME + 1


def test_the_variables_are_those_of_the_package() -> None:
    assert parts.VARIABLE == dispatch.VARIABLE
    assert parts.FUSIONS_VARIABLE == fusions.VARIABLE
