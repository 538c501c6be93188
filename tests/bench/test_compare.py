"""`python -m bench.compare` as a user runs it: real processes, small models at small sizes."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import baselines  # noqa: F401 (registers the models)
from bench.compare import Journal
from bench.records import store
from bench.records.record import Record
from tests.bench.processes import all_end, workers_of

COMMAND = [sys.executable, "-m", "bench.compare"]
PLANTED = ["--import", "planted_models", "--resolutions", "32", "--threads", "1", "--quick", "--batch-size", "2"]
WITH_PLANTED = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent)}
SMALL = ["--resolutions", "32", "--threads", "1", "--quick"]


def run(*args: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *args], capture_output=True, text=True, timeout=240, check=False, **kwargs)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """One run with every default metric, from a working directory of no account."""
    folder = tmp_path_factory.mktemp("compare")
    output = folder / "records.json"
    done = run("--models", "MogaNet-XT", "resnet18", *SMALL, "--batch-size", "2", "--sources", "--output", str(output))
    return done, output


def test_prints_one_table(measured: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    done, _ = measured
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    (row,) = [line.split() for line in lines if line.startswith("moganet_xt  ")]
    assert row[0] == "moganet_xt"
    assert {"2.96", "2.97"} < set(row), "parameters counted and published"
    assert sum(line.startswith("resnet18  ") for line in lines) == 1
    assert any(line.startswith("Measured on ") and "at 32" in line and "batch 2" in line for line in lines)
    assert any("MogaNet" in line and "README" in line for line in lines), "sources were asked for"
    assert any("cannot tell a difference of 5 % from noise" in line for line in lines), "--quick"


def test_no_progress_bar_without_a_terminal(measured: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    done, output = measured
    steps = [line for line in done.stderr.splitlines() if line.startswith("[")]
    first, ratios, *known, last = [line for line in done.stderr.splitlines() if line not in steps]
    assert first == "moganet_xt, resnet18 at 32: params, macs, throughput, memory"
    assert ratios == "ratios refer to resnet18"
    assert last == f"wrote {output}"
    assert all(re.fullmatch(r"\[\d/9\] \d+ s gone, (about \d+ s left|all done): .+", line) for line in steps), steps
    assert "all done" in steps[-1]
    assert all(line.startswith("moganet_xt deploy ") and "images/s; " in line for line in known), known
    assert known[0].endswith("x after 1 round")
    assert not re.search(r"[^\n -~±]", done.stderr), "no control characters"


def test_records_carry_their_conditions(measured: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    _, output = measured
    data = json.loads(output.read_text())
    assert data["environment"]["libraries"]["torch"] == torch.__version__
    records = {(r["model"], r["metric"]): r for r in data["records"]}
    assert {m for m, _ in records} == {"moganet_xt", "resnet18"}
    timed = {"throughput", "throughput_ratio", "memory", "memory_weights"}
    assert {metric for _, metric in records} == {"params", "macs", *timed}
    ratio = records["moganet_xt", "throughput_ratio"]
    assert ratio["against"] == "resnet18 deploy"
    assert len(ratio["samples"]) == ratio["n"] == 2
    assert len({record["run"] for record in records.values()}) == 1
    assert all(name in data["environment"] for name in ("before", "after", "timed_allocator", "tf32"))
    assert records["moganet_xt", "params"]["value"] == 2_956_066
    assert records["resnet18", "memory_weights"]["value"] >= 4 * records["resnet18", "params"]["value"]
    for (_, metric), record in records.items():
        assert record["valid"], record["reasons"]
        assert record["value"] > 0
        assert record["machine"] == data["environment"]["machine"]
        if metric in ("throughput", "memory"):
            assert (record["batch"], record["dtype"], record["threads"], record["device"]) == (2, "float32", 1, "cpu")
            assert record["layout"] in ("channels_last", "channels_first")
            assert record["weights"] == "random:0"
        if metric == "memory":  # freed blocks go back at once, or the peak would be another in every process
            assert "MALLOC_MMAP_THRESHOLD_=65536" in record["method"]
            assert record["hi"] - record["lo"] <= max(2**20, 0.05 * record["value"])
    for model in ("moganet_xt", "resnet18"):  # each pass has its own process, and the same layout
        assert records[model, "memory"]["layout"] == records[model, "throughput"]["layout"]


def test_both_forms_of_overlock_run_what_is_asked() -> None:
    """With a small OverLoCK: where a CPU has no bfloat16 its convolutions take a second a pass of the real one."""
    done = run(
        *("--models", "overlock_xt", "--form", "both", *SMALL, "--batch-size", "1", "--format", "json"),
        *("--metrics", "throughput", "--backend", "reference", "--dtype", "bfloat16", "--rounds", "1"),
        *("--import", "planted_shallow"),
        env=WITH_PLANTED,
    )
    speeds = json.loads(done.stdout)["records"]
    assert [(r["form"], r["metric"]) for r in speeds] == [("train", "throughput"), ("deploy", "throughput")]
    assert all("canary" in reason for r in speeds for reason in r["reasons"])
    assert {(r["backend"], r["dtype"]) for r in speeds} == {("reference", "bfloat16")}


def test_both_forms_of_overlock_are_counted() -> None:
    done = run("--models", "overlock_xt", "--form", "both", *SMALL, "--metrics", "params", "--format", "json")
    records = json.loads(done.stdout)["records"]
    assert [(r["form"], r["metric"]) for r in records] == [
        *(("train", metric) for metric in ("params", "params_without_aux")),
        *(("deploy", metric) for metric in ("params", "params_with_aux")),
    ]
    assert [r["value"] for r in records if r["metric"] == "params"] == [17_307_272, 16_453_712]
    assert all("aux_head" in r["notes"][0] for r in records if r["metric"] == "params")


def test_counting_runs_in_several_processes_and_keeps_the_order() -> None:
    names = ["moganet_t", "convnext_t", "moganet_xt", "convnext_s"]
    sizes = ["32", "64x32"]
    done = run("--models", *names, "--resolutions", *sizes, "--metrics", "params", "macs", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [(row["model"], row["resolution"]) for row in rows] == [(name, size) for size in sizes for name in names]
    assert all(float(row["macs"]) > 0 and row["valid"] == "True" for row in rows)


def test_out_of_memory_is_a_result() -> None:
    done = run("--models", "moganet_xt", *SMALL, "--metrics", "throughput", "--batch-size", "1000000000")
    assert done.returncode == 0, done.stderr
    assert "OOM: " in done.stdout


def test_where_no_figure_is_valid_scripts_see_it() -> None:
    """Counts that stand beside them are none of what was to be measured."""
    done = run("--models", "tiny_undefined", *PLANTED, "--metrics", "params", "throughput", env=WITH_PLANTED)
    check_all_invalid(done)


def check_all_invalid(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 2
    assert "tiny_undefined" in done.stdout
    last = done.stderr.splitlines()[-1]
    assert last.startswith("bench.compare: error: no figure that was measured is valid: ")
    assert "outputs are not finite" in last


def test_a_row_that_fails_costs_no_other(tmp_path: Path) -> None:
    """Undefined outputs, a killed process: each is told beside its model, and the good one is measured."""
    names = ["tiny_undefined", "tiny_killed_once", "tiny"]
    env = {**WITH_PLANTED, "KILLED": str(tmp_path / "killed")}
    done = run("--models", *names, *PLANTED, "--metrics", "throughput", env=env)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any("tiny_undefined" in line and "outputs are not finite" in line for line in lines)
    assert any("tiny_killed_once" in line and "1 process lost: killed by SIGKILL" in line for line in lines)
    for name in ("tiny_killed_once", "tiny"):
        (row,) = [line.split() for line in lines if line.startswith(f"{name}  ")]
        assert any(
            float(word) > 0 for word in (w.replace(",", "") for w in row[1:]) if word.replace(".", "").isdecimal()
        ), row


def test_an_interrupted_sweep_resumes(tmp_path: Path) -> None:
    """The second run measures the new batch alone; figures of the first stand as they were, in one file."""
    path = tmp_path / "sweep.csv"
    args = ["--models", "tiny", *PLANTED, "--rounds", "1", "--metrics", "throughput"]
    args += ["--resume", str(path)]
    first = run(*args, env=WITH_PLANTED)
    assert first.returncode == 0, first.stderr
    before = path.read_text()
    second = run(*args, "--batch-sizes", "2", "3", "--format", "csv", env=WITH_PLANTED)
    assert second.returncode == 0, second.stderr
    assert path.read_text().startswith(before)
    added = list(csv.DictReader(io.StringIO(path.read_text())))[len(before.splitlines()) - 1 :]
    assert {row["batch"] for row in added} == {"3"}
    rows = list(csv.DictReader(io.StringIO(second.stdout)))
    assert [(row["model"], float(row["batch"])) for row in rows] == [("tiny", 2.0), ("tiny", 3.0)]
    assert all(float(row["throughput"]) > 0 for row in rows)


def test_what_is_kept_in_a_folder_has_its_environment_and_is_known_to_the_next_run(tmp_path: Path) -> None:
    """As a cell of a sweep keeps it: like `results/`, so that machines may share it."""
    (tmp_path / "kept").mkdir()
    journal = Journal(tmp_path / "kept")
    assert journal.known() == []
    journal.environment = lambda: {"machine": "here", "cpu": "one"}
    figure = Record(model="m", form="deploy", metric="params", value=1.0, unit="count", resolution="32",
                    machine="here", run="r")  # fmt: skip
    journal(figure)
    assert Journal(tmp_path / "kept").known() == [figure]
    assert store.environments(tmp_path / "kept" / "here") == {"r": {"machine": "here", "cpu": "one"}}


def test_a_full_disk_loses_no_figure() -> None:
    """/dev/full takes no byte: the table is printed all the same, and the error names the file."""
    done = run("--models", "resnet10t", "--metrics", "params", "--output", "/dev/full")
    assert done.returncode == 2
    assert "resnet10t" in done.stdout
    assert "cannot write /dev/full: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


BAD = {
    "unknown model": (["--models", "overlok_t", "--metrics", "params"], "overlock_t"),
    "small resolution": (["--models", "overlock_t", "--resolutions", "31"], "32"),
    "no resolution": (["--models", "overlock_t", "--resolutions", "big"], "256x320"),
    "unknown metric": (["--models", "overlock_t", "--metrics", "speed"], "throughput"),
    "batch of 0": (["--models", "overlock_t", "--batch-size", "0"], "1 or more"),
    "unwritable output": (["--models", "overlock_t", "--output", "/dev/null/all.json"], "/dev/null/all.json"),
    "baseline elsewhere": (["--models", "overlock_t", "--baseline", "convnext_b"], "convnext_b"),
    "empty baseline": (["--models", "overlock_t", "--baseline", ""], "--baseline ''"),
    "unknown backend": (["--models", "overlock_t", "--metrics", "params", "--backend", "quick"], "reference"),
    "tf32 on a CPU": (["--models", "overlock_t", "--device", "cpu", "--dtype", "tf32"], "float32"),
    "weights of none": (["--models", "overlock_t", "--weights", "overlock_t=/nowhere.pth"], "/nowhere.pth"),
    "weights of another": (["--models", "overlock_t", "--weights", "overlock_s=/nowhere.pth"], "overlock_s"),
    "no model": ([], "--models"),
    "nothing to import": (
        ["--models", "overlock_t", "--metrics", "params", "--import", "no_such_module"],
        "PYTHONPATH",
    ),
    "no record to compare with": (["--models", "overlock_t", "--against", "/nowhere.csv"], "/nowhere.csv"),
    "a graph without CUDA": (["--models", "overlock_t", "--device", "cpu", "--compile", "cudagraph"], "CUDA"),
    "no rounds": (["--models", "overlock_t", "--rounds", "0"], "1 or more"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2(case: str) -> None:
    args, mend = BAD[case]
    check_refusal(run(*args), mend)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_where_there_is_none() -> None:
    check_refusal(run("--models", "overlock_t", "--device", "cuda", "--metrics", "params"), "--device cpu")


def test_a_checkpoint_of_another_model(tmp_path: Path) -> None:
    path = tmp_path / "moganet_xt.pth"
    torch.save(timm.create_model("moganet_xt").state_dict(), path)
    check_refusal(run("--models", "moganet_t", "--metrics", "throughput", "--weights", f"moganet_t={path}"), str(path))


def test_a_checkpoint_is_loaded_and_named(tmp_path: Path) -> None:
    path = tmp_path / "moganet_xt.pth"
    torch.save(timm.create_model("moganet_xt").state_dict(), path)
    done = run(
        *("--models", "moganet_xt", *SMALL, "--metrics", "memory", "--weights", f"moganet_xt={path}"),
        *("--format", "json"),
    )
    assert done.returncode == 0, done.stderr
    assert all(len(record["weights"]) == 64 for record in json.loads(done.stdout)["records"])


def check_refusal(done: subprocess.CompletedProcess[str], mend: str) -> None:
    errors = [line for line in done.stderr.splitlines() if line.startswith("bench.compare: error: ")]
    assert done.returncode == 2, done.stderr
    assert len(errors) == 1
    assert mend in errors[0]
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_output_that_exists_is_kept_when_the_input_is_bad(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    path.write_text("kept")
    run("--models", "nothing_like_it", "--output", str(path))
    assert path.read_text() == "kept"
    fresh = tmp_path / "fresh.json"
    run("--models", "nothing_like_it", "--output", str(fresh))
    assert not fresh.exists()


def test_help_is_quick_by_not_importing_torch() -> None:
    code = "import sys, bench.compare\ntry: bench.compare.main(['--help'])\nfinally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
    assert "moganet_xl" in done.stdout


class Terminal:
    """The command with a terminal as its stderr."""

    def __init__(self, *args: str) -> None:
        self.own, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
        self.process = subprocess.Popen(
            [*COMMAND, *args],
            stdout=subprocess.PIPE,
            stderr=theirs,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job's is ignored
        )
        os.close(theirs)
        self.shown = ""

    def until(self, condition: Callable[[], bool]) -> None:
        """Read what it shows until `condition` holds."""
        end = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < end, f"not seen in time: {self.shown[-500:]}"
            assert self.process.poll() is None, f"ended too soon: {self.shown[-500:]}"
            self._read()

    def _read(self) -> bool:
        """Whether there was something to read within a moment; a terminal nobody reads would stop the command."""
        if not select.select([self.own], [], [], 0.2)[0]:
            return False
        try:
            self.shown += os.read(self.own, 4096).decode(errors="replace")
        except OSError:  # closed at the other end
            return False
        return True

    def finish(self) -> str:
        """Its stdout, once it has ended."""
        end = time.monotonic() + 120
        while self.process.poll() is None:
            assert time.monotonic() < end, f"not ended in time: {self.shown[-500:]}"
            self._read()
        while self._read():
            pass
        assert self.process.stdout is not None
        return self.process.stdout.read()


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    """Two models' throughput, over more rounds than anybody waits for."""
    models = ["resnet10t", "resnet18"]
    args = ["--metrics", "throughput", "--rounds", "20", "--layout", "channels_last"]
    running = Terminal("--models", *models, *SMALL, *args)
    yield running
    if running.process.poll() is None:
        running.process.kill()
    os.close(running.own)


def test_ctrl_c_keeps_the_rounds_that_are_done(terminal: Terminal) -> None:
    pid = terminal.process.pid
    terminal.until(lambda: "round 2, block" in terminal.shown and len(workers_of(pid)) == 2)
    workers = workers_of(pid)
    terminal.process.send_signal(signal.SIGINT)
    out = terminal.finish()
    assert terminal.process.returncode == 130
    assert "left" in terminal.shown, "the bar tells the time that is left"
    assert re.search(r"stopped after \d+ of 20 rounds", out)
    for model in ("resnet10t", "resnet18"):
        (row,) = [line.split() for line in out.splitlines() if line.startswith(f"{model}  ")]
        assert float(row[1].replace(",", "")) > 0, row
    assert "Traceback" not in terminal.shown
    assert all_end(workers)


@pytest.mark.slow
def test_ctrl_c_before_anything_is_known_says_so(terminal: Terminal) -> None:
    terminal.until(lambda: "checking" in terminal.shown)
    terminal.process.send_signal(signal.SIGINT)
    terminal.finish()
    assert terminal.process.returncode == 130
    assert "interrupted: 0 figures were measured" in terminal.shown
    assert "Traceback" not in terminal.shown
