"""The store of records: what is appended comes back, whoever else writes, and whatever becomes of a writer."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench.cli import BadInput
from bench.paths import REPOSITORY
from bench.records import store
from bench.records.record import Record, new_run, to_json
from bench.tasks import variant_of

RECORD = Record(
    model="overlock_t",
    form="deploy",
    metric="throughput",
    value=11.75,
    lo=11.7,
    hi=11.9,
    n=3,
    unit="images/s",
    resolution="256x320",
    batch=4,
    dtype="float32",
    threads=2,
    device="cpu",
    machine="some-machine",
    samples=(11.7, 11.75, 0.1 + 0.2),
    run="20260101T000000-abcdef",
    reasons=("one, with a comma", 'two "quoted"\nand broken'),  # a line break within one of several values is kept
    notes=("né",),
    dirty=True,
    valid=False,
    time="2026-01-01T00:00:00+00:00",
)
COST = Record(model="m", form="deploy", metric="macs", value=5_640_000_001, unit="MACs", resolution="224", dirty=False)


def test_what_is_appended_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "machine" / "records.csv"
    ratio = replace(RECORD, metric="throughput_ratio", unit="", against="convnext_t deploy")
    store.append(path, [RECORD, COST])
    store.append(path, [RECORD.failed("OOM: no"), ratio])
    store.append(path, [])
    assert store.read(path) == [RECORD, COST, RECORD.failed("OOM: no"), ratio]
    assert isinstance(store.read(path)[1].value, int)
    assert len(path.read_text().splitlines()) == 5
    assert store.read(path.parent) == store.read(path)


@pytest.mark.parametrize("cut", [1, 7, 40])
def test_an_unfinished_last_line_is_passed_over_and_mended(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "records.csv"
    store.append(path, [RECORD, COST])
    os.truncate(path, path.stat().st_size - cut)
    assert store.read(path) == [RECORD]
    store.append(path, [COST])
    assert store.read(path) == [RECORD, COST]


def test_a_file_that_ends_within_its_first_line_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "records.csv"
    path.write_text("model,form,met")
    store.append(path, [COST])
    assert store.read(path) == [COST]


WRITER = """
import sys
from dataclasses import replace
from pathlib import Path
from bench.records import store
from bench.records.record import Record
who, path = sys.argv[1], Path(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
for i in range(40):
    store.append(path, [Record(model=who, form="deploy", metric="macs", value=10 * i + j, unit="MACs", resolution="224",
                               notes=(who * 3000,)) for j in range(3)])
"""


def writer(who: str, path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, who, str(path)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_the_folder_of_all_machines_reads_beside_files_that_are_none_of_records() -> None:
    results = REPOSITORY / "results"
    assert list(results.glob("*.csv")), "expected and published figures"
    of_machines = [store.read(folder) for folder in store.machines(results)]
    assert len(of_machines) > 1
    assert store.read(results) == [record for records in of_machines for record in records]


def test_two_writers_do_not_interleave(tmp_path: Path) -> None:
    path = tmp_path / "records.csv"
    writers = [writer(who, path) for who in "ab"]
    for process in writers:
        assert process.stdout is not None
        process.stdout.readline()
    for process in writers:
        process.communicate("go\n", timeout=60)
        assert process.returncode == 0
    records = store.read(path)
    for who in "ab":
        assert [r.value for r in records if r.model == who] == [10 * i + j for i in range(40) for j in range(3)]


MERGER = """
import sys
from pathlib import Path
from bench.records import store
*sources, results = map(Path, sys.argv[1:])
print("ready", flush=True)
sys.stdin.readline()
print(sum(store.merge([source], results) for source in sources * 3))
"""


def test_two_that_merge_the_same_records_in_another_order_bring_each_once(tmp_path: Path) -> None:
    sources = [tmp_path / name for name in "ab"]
    for source in sources:
        for i in range(20):
            run = f"{source.name}{i}"
            figures = [replace(COST, machine=f"m{i % 2}", run=run, value=float(j)) for j in range(3)]
            store.save(figures, {"machine": f"m{i % 2}", "cpu": run}, source)
    mergers = []
    for order in (sources, sources[::-1]):
        command = [sys.executable, "-c", MERGER, *map(str, order), str(tmp_path / "all")]
        mergers.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    for process in mergers:
        assert process.stdout is not None
        process.stdout.readline()
    added = [int(process.communicate("go\n", timeout=60)[0]) for process in mergers]
    kept = [record for folder in store.machines(tmp_path / "all") for record in store.read(folder)]
    assert sum(added) == len(kept) == 2 * 20 * 3
    assert len({(record.run, record.value) for record in kept}) == len(kept)
    known = {run: env for folder in store.machines(tmp_path / "all") for run, env in store.environments(folder).items()}
    assert len(known) == 40
    assert all(environment["cpu"] == run for run, environment in known.items())
    for name in ("m0", "m1"):
        lines = (tmp_path / "all" / name / store.ENVIRONMENTS).read_text().splitlines()
        assert len(lines) == 20


def test_a_writer_killed_in_the_act_leaves_a_readable_file(tmp_path: Path) -> None:
    path = tmp_path / "records.csv"
    process = writer("k", path)
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    while not path.exists() or path.stat().st_size < 30_000:
        assert process.poll() is None
    process.kill()
    process.wait()
    before = store.read(path)
    store.append(path, [COST])
    assert store.read(path)[: len(before)] == before
    assert store.read(path)[-1] == COST


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "records.csv"
    store.append(path, [RECORD])
    before = path.read_bytes()
    script = f"""
import resource, signal
from pathlib import Path
from bench import cli
from bench.records import store
records = store.read(Path({str(path)!r}))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before)} + 100, resource.RLIM_INFINITY))
cli.run("compare", lambda: store.append(Path({str(path)!r}), records * 10) or 0)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 2
    assert "cannot write" in done.stderr
    assert "Traceback" not in done.stderr
    assert path.read_bytes() == before


def test_an_older_file_reads_and_gets_the_new_columns(tmp_path: Path) -> None:
    path = tmp_path / "records.csv"
    path.write_text(
        "model,form,metric,value,unit,resolution,version,later\nm,deploy,macs,3,MACs,224,1,kept\n", encoding="utf-8"
    )
    (old,) = store.read(path)
    assert (old.value, old.version, old.samples, old.run, old.counter, old.against) == (3, 3, (), "", "", "")
    store.append(path, [RECORD])
    assert store.read(path) == [old, RECORD]
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["later"] for row in rows] == ["kept", ""]


def test_committed_records_of_an_older_version_read_and_are_added_to(tmp_path: Path) -> None:
    machines = (REPOSITORY / "results" / name for name in ("intel-xeon-2c-e31ca5", "amd-epyc-2c-c62b17"))
    for machine in machines:
        path = Path(shutil.copy(machine / store.RECORDS, tmp_path))
        before = store.read(path)
        new = replace(RECORD, task="segmentation", head="upernet", variant="multi-scale and flip", reasons=())
        store.append(path, [new])
        assert store.read(path) == [*before, new]
    dense = [r for r in before if r.task != "classification"]
    assert {r.head for r in dense} == {"upernet", "maskrcnn", "cascade", "cascade_2fc"}
    assert {r.variant for r in dense if r.task == "detection"} == {variant_of("detection")}
    assert all(r.head == r.variant == "" for r in before if r.task == "classification")
    assert not any(r.head in r.method for r in dense)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a,b\n1,2\n",
        "model,form,metric,value,unit,resolution\nm,deploy,macs,many,MACs,224\n",
        "model,form,metric,value,unit,resolution,valid\nm,deploy,macs,1,MACs,224,perhaps\n",
        "model,metric\nm,macs\n",
    ],
)
def test_what_is_no_file_of_records_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "records.csv"
    path.write_text(text)
    with pytest.raises(BadInput, match=r"records\.csv"):
        store.read(path)
    with pytest.raises(BadInput, match=r"no records|cannot read"):
        store.read(tmp_path / "nothing.csv" if text else tmp_path.parent / "none")


def test_save_keeps_the_environment_of_each_run_once(tmp_path: Path) -> None:
    environment = {"machine": "some-machine", "cpu": "c"}
    path = store.save([RECORD], environment, tmp_path)
    store.save([RECORD], environment, tmp_path)
    other = replace(COST, run=new_run())
    store.save([other], {**environment, "cpu": "d"}, tmp_path)
    assert store.read(path) == [RECORD, RECORD, other]
    assert store.machines(tmp_path) == [tmp_path / "some-machine"]
    kept = store.environments(path.parent)
    assert [kept[run]["cpu"] for run in (RECORD.run, other.run)] == ["c", "d"]
    assert len((path.parent / store.ENVIRONMENTS).read_text().splitlines()) == 2
    with pytest.raises(BadInput, match="machine"):
        store.save([RECORD], {}, tmp_path)


def test_json_reads_too(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(to_json({}, [RECORD, COST]))
    assert store.read(path) == [RECORD, COST]
