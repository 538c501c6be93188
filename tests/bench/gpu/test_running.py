"""Parts as real processes: what they hand over is kept whatever ends them, and nothing of them stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.gpu import running
from bench.gpu.kept import Kept
from bench.gpu.parts import PARTS, Part
from bench.gpu.running import Run
from bench.paths import REPOSITORY

CRASHES = "import sys; sys.exit('it went wrong')"
HANGS = """
import subprocess, sys, time
from bench.gpu.parts import arguments
from bench.gpu.sink import sink
part = sink(arguments("hangs").parse_args())
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
part.tell(block={"child": child.pid})
time.sleep(600)
"""
KEEPS = """
from bench.gpu.parts import arguments
from bench.gpu.sink import sink
from bench.records.record import Record
part = sink(arguments("keeps").parse_args())
print("what a library prints")
part.keep([Record(model="m", form="deploy", metric="throughput", value=2.0, unit="images/s", resolution="224")])
assert part.room(1.0, "the first row")
assert not part.room(1e6, "the long row")
"""
REFUSED = """
from bench.gpu.parts import arguments
from bench.gpu.sink import sink
part = sink(arguments("refused").parse_args())
part.tell(records=[{"model": "m", "form": "of a later version", "metric": "throughput", "value": 2.5}])
part.tell(block={"after": 1})
"""
GOES_ON = """
import os
from bench.gpu.parts import arguments
from bench.gpu.sink import sink
part = sink(arguments("goes_on").parse_args())
for case in range(part.skip + 1, 5):
    part.tell(case=case)
    if case in (2, 3):
        os.abort()
    part.tell(block={"case": case})
"""
LAST = """
import time
from bench.gpu.parts import arguments
from bench.gpu.sink import sink
part = sink(arguments("last").parse_args())
end = time.time() + 1.6
while time.time() < end:
    time.sleep(0.01)
part.tell(block={"measured": "late"})
part.tell(block={"measured": "later"})
time.sleep(60)
"""
RUNS = """
import sys, time
from pathlib import Path
from bench.gpu.kept import Kept
from bench.gpu.parts import Part
from bench.gpu.running import Run
kept = Kept({}, changed=lambda kept: print(kept.blocks, flush=True))
Run(kept, Path(sys.argv[1]), time.time() + 600, "cpu").parts([Part("hangs", "part_hangs", 500.0, "")])
"""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, code in (("last", LAST), ("crashes", CRASHES), ("hangs", HANGS), ("keeps", KEEPS), ("goes_on", GOES_ON),
                       ("refused", REFUSED)):  # fmt: skip
        (tmp_path / f"part_{name}.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{REPOSITORY}")
    monkeypatch.setattr(running, "GRACE", 0.2)
    return tmp_path


def run_of(folder: Path, *parts: Part) -> Kept:
    kept = Kept({"machine": "here", "libraries": {"torch": "2"}}, "run", folder)
    Run(kept, folder, time.time() + 60, "cpu", tiny=True).parts(parts)
    return kept


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def ended(pid: int) -> bool:
    deadline = time.time() + 10
    while runs(pid) and time.time() < deadline:
        time.sleep(0.02)
    return not runs(pid)


def test_a_part_that_crashes_or_hangs_loses_itself_alone(modules: Path) -> None:
    kept = run_of(modules, Part("hangs", "part_hangs", 1.0, ""), Part("crashes", "part_crashes", 20.0, ""),
                  Part("keeps", "part_keeps", 20.0, ""))  # fmt: skip
    how = {part["part"]: part["how"] for part in kept.parts}
    assert how["hangs"].startswith("stopped at its time")
    assert how["crashes"] == "ended with code 1: it went wrong"
    assert how["keeps"] == "done"
    (row,) = kept.of("keeps")
    assert (row.value, row.machine, row.torch) == (2.0, "here", "2")
    assert kept.dropped == {"keeps": ["the long row (no time)"]}
    assert b"what a library prints" in kept.logs["keeps"]
    assert ended(kept.blocks[0]["child"])


def test_a_record_that_is_refused_is_in_the_log_and_what_follows_is_heard(modules: Path) -> None:
    kept = run_of(modules, Part("refused", "part_refused", 20.0, ""))
    assert b"of a later version" in kept.logs["refused"]
    (dropped,) = kept.dropped["refused"]
    assert dropped.startswith("a message, which stands in the log: not a record")
    assert [block["after"] for block in kept.blocks] == [1]


def test_a_part_goes_on_behind_the_case_that_it_crashed_in(modules: Path) -> None:
    kept = run_of(modules, Part("goes_on", "part_goes_on", 30.0, "", goes_on=True))
    assert [block["case"] for block in kept.blocks] == [1, 4]
    assert [part["how"] for part in kept.parts] == ["killed by SIGABRT", "killed by SIGABRT", "done"]


def test_a_part_that_is_stopped_hands_over_what_it_is_just_measuring(
    modules: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "LAST", 20.0)
    kept = run_of(modules, Part("last", "part_last", 1.0, ""))
    assert kept.blocks == [{"part": "last", "measured": "late"}]
    assert kept.parts[0]["how"].startswith("stopped at its time")


def test_no_time_left_is_said(tmp_path: Path) -> None:
    kept = Kept({}, "", tmp_path)
    Run(kept, tmp_path, time.time() + 1, "cpu", tiny=True).parts([PARTS[-1]])
    assert kept.parts[0]["how"] == "dropped: no time was left"


def test_nothing_stays_of_a_run_that_is_killed(modules: Path) -> None:
    """Nobody is left to stop its part: it sees its connection closed."""
    process = subprocess.Popen([sys.executable, "-c", RUNS, str(modules)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = int(process.stdout.readline().split("'child': ")[1].rstrip("]}\n"))
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert ended(child)
