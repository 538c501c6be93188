"""When a ratio of speeds is a regression, and when that cannot be decided. Imports no torch.

Speeds are compared as new over old: below 1 is slower. With a margin m, a ratio is a REGRESSION if its whole 95 %
interval lies below 1 / (1 + m), OK if all of it lies above, and UNDECIDED if that border lies within.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from bench.cli import BadInput
from bench.engine.statistics import CONFIDENCE, POWER, Ratio, t_quantile
from bench.gates.verdict import INVALID, OK, REGRESSION, UNDECIDED, Judgement
from bench.machine import calibration
from bench.records import store

LEAST = 0.03
SPREADS = 3.0


def verdict(ratio: Ratio, margin: float) -> str:
    """REGRESSION, OK or UNDECIDED; INVALID where there is no finite ratio."""
    if not math.isfinite(ratio.value) or math.isnan(ratio.lo) or math.isnan(ratio.hi):
        return INVALID
    border = 1 / (1 + margin)
    if ratio.hi < border:
        return REGRESSION
    return OK if ratio.lo > border else UNDECIDED


def change_of(now: Sequence[float], before: Sequence[float]) -> Ratio:
    """The ratio of two ratios that were measured on two occasions, from their rounds (Welch's interval).

    The interval of a single round on either side is infinite.
    """
    assert now, "nothing measured"
    assert before, "nothing recorded"
    means, errors, degrees = zip(*(_mean_of_logs(samples) for samples in (now, before)), strict=True)
    value = means[0] - means[1]
    total = sum(errors)
    n = min(len(now), len(before))
    if not all(degrees):
        return Ratio(math.exp(value), 0.0, math.inf, n, (math.exp(value),), math.inf)
    freedom = total**2 / sum(e**2 / d for e, d in zip(errors, degrees, strict=True)) if total else min(degrees)
    half = _t(freedom, (1 + CONFIDENCE) / 2) * math.sqrt(total)
    visible = half + _t(freedom, POWER) * math.sqrt(total)
    lo, hi = math.exp(value - half), math.exp(value + half)
    return Ratio(math.exp(value), lo, hi, n, (math.exp(value),), math.expm1(visible))


def _mean_of_logs(samples: Sequence[float]) -> tuple[float, float, int]:
    """Mean of the logarithms, the square of its standard error, and degrees of freedom."""
    logs = [math.log(sample) for sample in samples]
    n, mean = len(logs), sum(logs) / len(logs)
    return mean, sum((x - mean) ** 2 for x in logs) / max(n - 1, 1) / n, n - 1


def _t(degrees: float, p: float) -> float:
    return t_quantile(max(1, math.floor(degrees)), p)


def of_machine(machine: str, results: Path) -> float:
    """The margin on a machine: 3 %, or three times its own A/A spread if that is more.

    Raises:
        BadInput: if this machine was never calibrated, or spreads so far that half the speed would pass.
    """
    folder = results / machine
    spread = calibration.latest(machine, results).get(calibration.SPREAD)
    if spread is None or spread.value is None:
        others = ", ".join(path.name for path in store.machines(results)) or "none"
        raise BadInput(
            f"{folder} has no calibration of this machine (machines recorded: {others}): "
            "run python -m bench.calibrate, or give --margin"
        )
    if SPREADS * spread.value >= 1:
        raise BadInput(
            f"{folder}: its calibration of {spread.time[:10]} has a spread of {spread.value:.3g}, by which half the "
            "speed would pass: run python -m bench.calibrate again on a quiet machine, or give --margin"
        )
    return max(LEAST, SPREADS * spread.value)


def judgement(subject: str, metric: str, ratio: Ratio, margin: float, reason: str = "") -> Judgement:
    """A ratio with its verdict and what it rests on."""
    judged = verdict(ratio, margin)
    return Judgement(
        subject, metric, judged, cells(ratio, margin), "; ".join(filter(None, (_reason(judged, ratio), reason)))
    )


def cells(ratio: Ratio, margin: float) -> dict[str, str]:
    return {
        "speed": f"{ratio.value:.3f}",
        "95 % interval": f"{ratio.lo:.3f} to {ratio.hi:.3f}",
        "margin": f"{margin:.1%}",
        "smallest visible": f"{ratio.smallest_visible:.1%}",
        "rounds": str(ratio.n),
    }


def _reason(judged: str, ratio: Ratio) -> str:
    if judged == INVALID:
        return "the speeds give no finite ratio"
    if judged == UNDECIDED:
        return f"differences below {ratio.smallest_visible:.1%} could not be seen"
    if judged == REGRESSION:
        return f"{1 / ratio.value - 1:.1%} more time"
    return "faster" if ratio.lo > 1 else ""
