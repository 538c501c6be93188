"""`python -m bench.gpu_run --simulate`: runs with planted failures, and whether what was measured is in the archive.

Every run is a real one, with real processes, pipes, signals and files; only the device is simulated
(`bench.gpu.simulation`). What the device handed out stands in its ledger, and each entry must be in the archive, or,
where the disk is full for good, in what the run printed. Imports no torch.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import cli
from bench.cli import BadInput
from bench.gpu import simulation
from bench.gpu.archive import ARCHIVE, read
from bench.gpu.parts import PARTS, TIME
from bench.gpu.simulation.device import FAILURES, LEDGER
from bench.paths import REPOSITORY
from bench.render import table
from bench.scratch import scratch

AT_ONCE = 3
"""Runs at a time."""
HELD_UP = 1.5
"""A run that takes this many times its own time was held up by something else."""
TIMED = ("headline", "training")
"""What most scenarios run: it imports no torch."""


@dataclass(frozen=True)
class Scenario:
    """Failures planted in a run, and the exit code that it must end with."""

    what: str
    plants: tuple[str, ...]
    code: int = 0
    parts: tuple[str, ...] = TIMED


SCENARIOS = (
    Scenario("nothing", (), parts=("compile", "correctness", *TIMED)),
    Scenario("nothing: the other parts", (), parts=("depthwise", "contmix", "correctness_rest")),
    Scenario("an overrun: all is 12 times as slow from the first block on", ("slow@headline:5", "slow@training:3")),
    Scenario("out of memory: both sides of the pair, at their first loading", ("oom@headline:1", "oom@headline:2")),
    Scenario("out of memory: a further side", ("oom@headline:26",)),
    Scenario("out of memory: a training side, and a test", ("oom@training:2", "oom@correctness:3"), code=1,
             parts=("correctness", "training")),
    Scenario("an illegal memory access while a side is timed", ("fault@headline:6",)),
    Scenario("an illegal memory access in an operator", ("fault@depthwise:9", "fault@contmix:7"),
             parts=("depthwise", "contmix")),
    Scenario("the process of a side aborts, another is killed", ("abort@headline:4", "kill@headline:17")),
    Scenario("the process of an operator is killed", ("kill@contmix:8",), parts=("contmix",)),
    Scenario("the part is killed in the middle of a round", ("kill-part@headline:8",)),
    Scenario("the run is killed (SIGKILL)", ("kill-run@headline:18",), code=-9),
    Scenario("the run gets SIGTERM", ("term@headline:9",), code=143),
    Scenario("the run gets SIGINT", ("interrupt@training:7",), code=130),
    Scenario("the device disappears", ("gone@headline:14",)),
    Scenario("a compile hangs: a side's, and one that is only warmed up", ("hang@headline:4", "hang@compile:2"),
             parts=("compile", "headline")),
    Scenario("compiling is 12 times as slow: nothing is warmed up", ("slow@compile:1",), parts=("compile", "headline")),
    Scenario("an operator hangs", ("hang@depthwise:12",), parts=("depthwise", "contmix")),
    Scenario("a wrong kernel: a test fails, and a side's outputs are not finite",
             ("wrong@correctness:5", "wrong@headline:3"), code=1,
             parts=("correctness", "headline")),
    Scenario("a test hangs", ("hang@correctness:7",), code=1, parts=("correctness", "training")),
    Scenario("the processes of two tests are killed", ("kill@correctness:4", "kill@correctness:14"), code=1,
             parts=("correctness", "training")),
    Scenario("the disk is full, but for what is kept free", ("full@headline:8",)),
    Scenario("the disk is full for good", ("full-for-good@headline:8",)),
)  # fmt: skip


def begin(plants: Sequence[str] | None, speed: float, folder: Path) -> None:
    """Make this process's run a simulated one with these failures, in the folder that the variable names or in this.

    Raises:
        BadInput: for a failure that is none.
    """
    if not 1 <= speed <= 1000:
        raise BadInput(f"--speed {speed:g}: give 1 to 1000 simulated seconds a second")
    if any(str(plant).startswith("interrupt@") for plant in plants or ()):  # which a shell's `&` has children ignore
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.setdefault(simulation.VARIABLE, str(folder))
    plan = {"speed": speed, "run": os.getpid(), "failures": [_planted(p) for p in plants or () if p != "nothing"]}
    (simulation.folder() / "plan.json").write_text(json.dumps(plan), encoding="utf-8")


def _planted(text: str) -> tuple[str, str, int]:
    match = re.fullmatch(r"([a-z-]+)@(\w+):(\d+)", text)
    if match is None or match[1] not in FAILURES or match[2] not in [part.name for part in PARTS]:
        kinds = "; ".join(f"{kind}: {what}" for kind, what in FAILURES.items())
        raise BadInput(f"--plant {text}: give FAILURE@PART:N, such as oom@headline:4, or nothing ({kinds})")
    return match[1], match[2], int(match[3])


def table_of_failures(out: Path | None, speed: float, scenarios: Sequence[Scenario] = SCENARIOS) -> int:
    """Run every scenario, some at a time, and print the table; 1 if anything was lost. Archives stay in `out`."""
    with scratch("gpu-failures") as folder:
        where = folder if out is None else out
        with ThreadPoolExecutor(AT_ONCE) as pool:
            asked = [(s, where / f"{i:02d}", speed) for i, s in enumerate(scenarios, 1)]
            rows = []
            for row in pool.map(lambda one: _seen(*one), asked):
                rows.append(row)
                print(" | ".join(map(str, row)), file=sys.stderr, flush=True)
    headings = ("planted", "at", "took, s", "exit code", "measured", "in the archive", "lost")
    print(table(headings, [row[:-1] for row in rows], "markdown"))
    bad = [(row[0], row[-1]) for row in rows if row[-1]]
    for what, why in bad:
        print(f"{what}: {why}")
    return cli.REGRESSION if bad else cli.OK


def _seen(scenario: Scenario, out: Path, speed: float) -> tuple[Any, ...]:
    """One row of the table. The simulated time is the machine's: a run that outlasted its own by far was held up (other
    work, a stop), so that an exit code other than wanted is none of its doing, and it is tried once more."""
    row = _tried(scenario, out, speed)
    held_up, lost = float(row[2]) > HELD_UP * TIME, row[-2]
    return _tried(scenario, out / "again", speed) if row[-1] and held_up and not lost else row


def _tried(scenario: Scenario, out: Path, speed: float) -> tuple[Any, ...]:
    """One row of the table; the last cell says what is wrong with the run, if anything is."""
    folder = out / "simulation"
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "bench.gpu_run", "--out", str(out), "--simulate", "--speed", str(speed), "--plant",
               "nothing", *(word for plant in scenario.plants for word in ("--plant", plant)), "--parts",
               *scenario.parts]  # fmt: skip
    began = time.time()
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, errors="replace", check=False,
        env={**os.environ, simulation.VARIABLE: str(folder)},
    )  # fmt: skip
    took = speed * (time.time() - began)
    if done.returncode == -9:
        time.sleep(1.0)  # its parts end when they see it gone
    texts = read(out / ARCHIVE)
    ledger = [json.loads(line) for line in (folder / LEDGER).read_text(encoding="utf-8").splitlines()]
    measured = [str(value) for line in ledger if "measured" in line for value in _marks(line["measured"])]
    archived = "\n".join(text for name, text in texts.items() if name.endswith((".csv", ".jsonl")))
    lost = [mark for mark in measured if mark not in archived and mark not in done.stdout]
    planted = {int(plant.rpartition(":")[2]) for plant in scenario.plants}
    at = [
        line["operation"].partition(" (")[0]
        for line in ledger
        if line.get("number") in planted and _is_of(line["part"], scenario)
    ]
    why = [f"{len(lost)} of {len(measured)} measured things are lost"] if lost else []
    if done.returncode != scenario.code:
        why.append(f"exit code {done.returncode}, not {scenario.code}: {cli.last_line(done.stderr)}")
    if len(list(out.glob("*"))) - 1 > 8:
        why.append("more files than come back")
    inside = sum(mark in archived for mark in measured)
    return (scenario.what, "; ".join(dict.fromkeys(at)), f"{took:.0f}", done.returncode, len(measured), inside,
            len(lost), "; ".join(why))  # fmt: skip


def _marks(values: dict[str, Any]) -> list[Any]:
    """What identifies a measured thing: its figure, or a test's name."""
    return [values[name] for name in ("seconds", "memory", "operator", "test") if name in values]


def _is_of(part: str, scenario: Scenario) -> bool:
    return any(f"@{part}:" in plant for plant in scenario.plants)
