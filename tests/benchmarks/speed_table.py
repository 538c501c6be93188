"""`python -m tests.benchmarks.speed_table`: the comparisons that the speed of this code is judged by, on a CPU.

Each group of sides is one interleaved measurement (`bench.engine.interleaved`). A row is the ratio of two sides of a
group, with its 95 % interval over rounds. Run it on a quiet machine; it takes about half an hour.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench import cli
from bench.cli import Parser
from bench.engine.plan import DEFAULT, Plan
from bench.engine.request import Request, Settings
from bench.metrics import MEMORY, THROUGHPUT, TRAINING
from bench.render import by_heading


def model(name: str, form: str = "deploy", size: tuple[int, int] = (224, 224), **settings: Any) -> Request:
    """A side of a group: batch 8 and, if no layout is given, the faster one."""
    label = " ".join([name, form, *(str(settings[key]) for key in ("dtype", "backend") if key in settings)])
    settings = {"device": "cpu", "batch": 8, **settings}
    return Request(model=name, form=form, resolution=size, settings=Settings(**settings), label=label)


def aggregation(how: str) -> Request:
    """ContMix's aggregation alone: images of 92x92 hold just as many numbers as its values."""
    imports = ("tests.benchmarks.aggregation",)
    return model(f"aggregation_{how}", size=(92, 92), layout="channels_first", imports=imports)


@dataclass(frozen=True)
class Group:
    """Sides that are timed in turn: the rows are the ratios of pairs of them."""

    rows: tuple[tuple[Request, Request], ...]
    kind: str = THROUGHPUT
    memory: bool = False  # whether the peak memory of both sides of a row is measured as well

    @property
    def sides(self) -> list[Request]:
        """Each side once."""
        sides: list[Request] = []
        for side in (side for row in self.rows for side in row):
            if side not in sides:
                sides.append(side)
        return sides


T, CONVNEXT = model("overlock_t", layout="channels_last"), model("convnext_b")
RELEASED = model("overlock_t", "train", backend="reference", layout="channels_first")


def larger(**conditions: Any) -> tuple[tuple[Request, Request], ...]:
    """OverLoCK-T and ConvNeXt-B under other conditions."""
    return ((model("overlock_t", layout="channels_last", **conditions), model("convnext_b", **conditions)),)


GROUPS = {
    "224": Group(((T, CONVNEXT), (T, RELEASED), (model("overlock_t", "train", layout="channels_last"), CONVNEXT))),
    "sizes": Group(tuple((model(f"overlock_{s}", layout="channels_last"), CONVNEXT) for s in ("xt", "s", "b"))),
    "aggregation": Group(((aggregation("tiled"), aggregation("unfold")),)),
    "bfloat16": Group(larger(dtype="bfloat16")),
    "training": Group(((model("overlock_t", "train", layout="channels_last"), model("convnext_t")),), TRAINING),
    "384": Group(larger(size=(384, 384), batch=4)),
    "800x1280": Group(larger(size=(800, 1280), batch=1), memory=True),
}
"""Name (for `--only`) -> group. `RELEASED` is the network as it was published: training form, ContMix as defined."""


def parser() -> Parser:
    p = Parser(prog="tests.benchmarks.speed_table", description=__doc__)
    add = p.add_argument
    add("--only", nargs="+", choices=[*GROUPS], default=[*GROUPS], metavar="GROUP", help=f"of {', '.join(GROUPS)}")
    add("--rounds", type=cli.positive, default=DEFAULT.rounds, help="processes of each side (default %(default)s)")
    add("--threads", type=cli.positive, metavar="N", help="(default: the physical cores available)")
    add("--format", choices=("table", "markdown", "json"), default="table")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    from bench.machine import calibration, environment

    threads = args.threads or environment.physical_cores()
    machine = environment.collect("cpu", threads)
    limit = calibration.canary_limit(calibration.latest(machine["machine"]), DEFAULT.canary_limit)
    plan = replace(DEFAULT, rounds=args.rounds, canary_limit=limit)
    rows = [row for name in args.only for row in measured(name, GROUPS[name], plan, threads)]
    where = f"{environment.describe(machine)}; {threads} threads; commit {machine['commit'][:8]}; {machine['time']}"
    if args.format == "json":
        print(json.dumps({"machine": where, "rows": rows}, indent=2))
    else:
        print(by_heading(rows, args.format))
        print(f"\n{where}. Batch 8 at 224, 4 at 384, 1 at 800x1280.")
    return cli.OK if all(row["ratio"] for row in rows) else cli.BAD_INPUT


def measured(name: str, group: Group, plan: Plan, threads: int) -> Iterator[dict[str, str]]:
    """The rows of a group; one without a ratio says why in its doubts."""
    from bench.engine import interleaved
    from bench.engine.figures import records_of

    def say(what: str) -> None:
        print(f"{name}: {what}", file=sys.stderr, flush=True)

    names = [side.name for side in group.sides]
    sides = [replace(s, kind=group.kind, settings=replace(s.settings, threads=threads)) for s in group.sides]
    *_, outcome = interleaved.measure(sides, plan, say)
    speeds = list(records_of(outcome, [group.kind], [None] * len(sides)))
    peaks = memory(outcome.sides) if group.memory else {}
    for pair in group.rows:
        a, b = (names.index(side.name) for side in pair)
        ratio = outcome.ratio(a, b)
        doubts = [*speeds[a].reasons, *speeds[b].reasons]
        yield {
            "group": name,
            "side": names[a],
            "over": f"{names[b]} ({speeds[b].layout})",
            "ratio": f"{ratio.value:.2f}" if ratio else "",
            "95 %": f"{ratio.lo:.2f} to {ratio.hi:.2f}" if ratio else "",
            "rounds": str(ratio.n if ratio else 0),
            "images/s": " / ".join("" if speeds[i].value is None else f"{speeds[i].value:.2f}" for i in (a, b)),
            "MiB of a call": " / ".join(peaks[names[i]] for i in (a, b)) if peaks else "",
            "doubts": "; ".join(dict.fromkeys(doubts)),
        }


def memory(sides: Sequence[Request]) -> dict[str, str]:
    """Name of a side -> how far a call rises above the loaded model, in MiB, each in a fresh process."""
    from bench.engine.passes import measured

    peaks = {}
    for side in sides:
        ((_, records),) = measured([replace(side, kind=MEMORY)])
        peak = next(record for record in records if record.metric == "memory")
        peaks[side.name] = "?" if peak.value is None else f"{peak.value / 2**20:.0f}"
    return peaks


if __name__ == "__main__":
    cli.run("speed_table", main)
