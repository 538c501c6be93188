"""Damaged files of every kind: one line that names the file and the mend, and nothing of them is touched."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from bench import claims, cli, compare, gate, published, report
from bench.cli import BadInput
from bench.engine.check import import_modules
from bench.evidence.evidence import Placed
from bench.gates import expected
from bench.records import store
from bench.records.record import TYPES, Record, to_json
from bench.render import table
from bench.reporting.rows import rows
from tests.bench.dense.trees import write_ade20k, write_coco

RECORD = Record(model="m", form="deploy", metric="macs", value=5.0, unit="MACs", resolution="224", machine="here")
ENVIRONMENT = {"machine": "here", "run": "r"}
DAMAGED = {
    "empty": b"",
    "binary": bytes(range(256)) * 4,
    "other columns": b"a,b\n1,2\n",
    "huge cell": b"model,metric\nm," + b"x" * 200_000 + b"\n",
    "cut row": b"model,metric,value\nm\n",
    "folder": None,
    "absent": None,
}


@pytest.fixture(params=DAMAGED)
def damaged(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path, content = tmp_path / "damaged.csv", DAMAGED[request.param]
    if content is not None:
        path.write_bytes(content)
    elif request.param == "folder":
        path.mkdir()
    return path


def refused(call: Callable[[], object], *words: str) -> None:
    with pytest.raises(BadInput) as refusal:
        call()
    message = " ".join(str(refusal.value).split())
    assert all(word in message for word in words), message
    assert any(mend in message for mend in ("give", "restore", "--save", "mend")), message


def published_of(path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr(published, "data_file", lambda name: path)
    return published.published.__wrapped__()


def test_every_reader_names_the_damaged_file(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(lambda: store.read(damaged), "damaged.csv")
    refused(lambda: expected.read(damaged), "damaged.csv")
    refused(lambda: published_of(damaged, monkeypatch), "damaged.csv")


def test_published_figures_of_no_model_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "published.csv"
    path.write_text(",".join(published.COLUMNS) + "\n")
    refused(lambda: published_of(path, monkeypatch), "published.csv holds no published figure", "restore it")


@pytest.mark.parametrize("path", ["/dev/full", "/dev/zero"])
def test_a_device_without_an_end_is_not_read(path: str) -> None:
    refused(lambda: store.read(Path(path)), path, "device")
    refused(lambda: store.check_appendable(Path(path)), path)
    refused(lambda: compare.main(["--models", "overlock_xt", "--metrics", "params", "--resume", path]), path)


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "records.csv"
    store.append(path, [RECORD])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert store.read(path) == [RECORD]
    store.append(path, [RECORD])
    assert store.read(path) == [RECORD, RECORD]
    known = published.data_file("published.csv")
    (tmp_path / "p.csv").write_bytes(b"\xef\xbb\xbf" + known.read_bytes())
    assert published_of(tmp_path / "p.csv", monkeypatch) == published.published()


@pytest.mark.parametrize(
    "change",
    [
        {"resolution": "abc"},
        {"resolution": 224},
        {"metric": "breakdown/operator"},
        {"metric": "throughput_ratio", "unit": "ratio", "value": 0},
        {"machine": "m" * 300},
        {"machine": "../elsewhere"},
        {"value": "5"},
        {"value": True},
        {"value": 10**400},
        {"reasons": "letters"},
        {"samples": ["1"]},
        {"valid": 1},
        {"batch": 1.5},
    ],
    ids=str,
)
def test_a_field_of_a_wrong_type_is_named(change: dict[str, object], tmp_path: Path) -> None:
    import json

    path = tmp_path / "records.json"
    path.write_text(json.dumps({"environment": {}, "records": [RECORD.to_dict() | change]}))
    refused(lambda: store.read(path), "records.json", "ratio" if "unit" in change else next(iter(change)))


@pytest.mark.parametrize(
    "text", ['{"records": [1]}', '{"environment": 3, "records": []}', "{", '{"a": ' + "[" * 100_000, '{"records": {}}']
)
def test_json_of_another_shape_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "records.json"
    path.write_text(text)
    refused(lambda: store.read(path), "records.json")


@pytest.mark.parametrize("line", ["{", "[]", '{"run": 1, "environment": {}}', '{"run": "r", "environment": 3}', "null"])
def test_a_damaged_environment_is_refused_before_measuring(line: str, tmp_path: Path) -> None:
    store.save([RECORD], ENVIRONMENT, tmp_path)
    file = tmp_path / "here" / store.ENVIRONMENTS
    file.write_text(line + "\n")
    refused(lambda: store.check(tmp_path), f"{file}, line 1")
    file.write_bytes(b"\xff\n")
    refused(lambda: store.check(tmp_path), str(file))
    assert file.read_bytes() == b"\xff\n"


def test_save_looks_at_the_folder_before_anything_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / store.ENVIRONMENTS).write_text("no\n")
    monkeypatch.setattr(store, "results_folder", lambda: tmp_path)
    monkeypatch.setattr("bench.engine.runner.Runner.measure", lambda self: pytest.fail("measured"))
    refused(lambda: compare.main(["--models", "overlock_xt", "--metrics", "params", "--save"]), store.ENVIRONMENTS)


@pytest.mark.parametrize("name", ["records.csv.lock", "environments.jsonl.lock", "environments.jsonl"])
def test_what_would_stop_the_keeping_is_found_before_measuring(name: str, tmp_path: Path) -> None:
    store.save([RECORD], ENVIRONMENT, tmp_path)
    store.check(tmp_path)
    path = tmp_path / "here" / name
    for make in (os.mkdir, os.mkfifo) if name == "environments.jsonl" else (os.mkdir,):
        path.unlink(missing_ok=True)
        make(path)
        refused(lambda: store.check(tmp_path), name)
        if make is os.mkdir:
            path.rmdir()


def test_a_report_names_an_environment_that_describes_no_machine(tmp_path: Path) -> None:
    store.save([RECORD], ENVIRONMENT, tmp_path)
    refused(lambda: report.main(["--results", str(tmp_path), "--check"]), store.ENVIRONMENTS)


@pytest.mark.parametrize("text", ['{"a": 1,\n"b": 2}', "a,b\n1,2\n3", "notes", to_json({}, [RECORD])])
def test_a_file_of_another_program_is_left_as_it_is(text: str, tmp_path: Path) -> None:
    path = tmp_path / "theirs"
    path.write_text(text)
    refused(lambda: store.append(path, [RECORD]), "theirs")
    refused(lambda: store.check_appendable(path), "theirs")
    assert path.read_text() == text


def test_a_rewritten_file_keeps_its_link_and_its_mode(tmp_path: Path) -> None:
    real, link = tmp_path / "real.csv", tmp_path / "link.csv"
    store.append(real, [RECORD])
    old = real.read_text().splitlines()
    real.write_text("".join(",".join(line.split(",")[:-1]) + "\n" for line in old))  # of a version without the last
    real.chmod(0o664)
    link.symlink_to(real)
    store.append(link, [RECORD])
    assert link.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o664
    assert len(store.read(real)) == 2
    assert real.read_text().startswith(",".join(TYPES))


def test_output_is_looked_at_and_left_alone(tmp_path: Path) -> None:
    link, target = tmp_path / "link", tmp_path / "target"
    link.symlink_to(target)
    cli.check_writable(link)
    assert link.is_symlink()
    assert not target.exists()
    cli.write(link, "text")
    assert link.is_symlink()
    assert target.read_text() == "text\n"
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for bad in ("n" * 300, "no/folder", ".", "loop"):
        refused(lambda bad=bad: cli.check_writable(tmp_path / bad), "cannot write")  # type: ignore[misc]
    cli.check_writable(Path("/dev/full"))
    refused(lambda: cli.write(Path("/dev/full"), "text"), "/dev/full")
    assert sorted(os.listdir(tmp_path)) == ["link", "loop", "target"]


def test_a_file_that_cannot_be_replaced_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_text("before")

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    refused(lambda: cli.write_whole(path, "after"), "No space left")
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["file"]


def test_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    """Each writes beside it under a name of its own: readers see the whole text of one of them."""
    path, texts = tmp_path / "file", [letter * 100_000 for letter in "abcd"]
    with ThreadPoolExecutor(4) as writers:
        done = [writers.submit(lambda text=text: [cli.write_whole(path, text) for _ in range(20)]) for text in texts]
        while not all(one.done() for one in done):
            assert not path.exists() or path.read_text() in texts
        assert [one.result() for one in done]
    assert os.listdir(tmp_path) == ["file"]


def test_a_full_disk_behind_the_output_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-c", "from bench import cli; cli.run('x', lambda: print('text') or 0)"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (2, "bench.x: error: writing the output: No space left on device\n")


def test_two_files_of_one_run_are_two(tmp_path: Path) -> None:
    path = str(tmp_path / "a.csv")
    arguments = ["--models", "overlock_xt", "--metrics", "params", "--resume", path, "--output", path]
    refused(lambda: compare.main(arguments), "--output", "--resume")


def test_a_readme_that_is_no_text_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    results, readme = tmp_path / "results", tmp_path / "README.md"
    results.mkdir()
    readme.write_bytes(b"\xff")
    for more in ([], ["--check"]):
        refused(lambda: report.main(["--results", str(results), "--parts", "results", "readme", *more]), "README.md")  # noqa: B023
        assert not (results / "README.md").exists()
    assert readme.read_bytes() == b"\xff"


def test_a_damaged_file_of_expected_figures_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "expected.csv"
    header = ",".join(expected.COLUMNS)
    good = "m,deploy,params,,,5"
    for row in ("m,deploy,logits,224,float32,1 nan 2", "m,deploy,logits,224,float32,garbage", "m,deploy,params,,,nan",
                "m,deploy,macs,224,,inf", "m,deploy", f"{good}\n{good}", "m,deploy,failed,,,no"):  # fmt: skip
        path.write_text(f"{header}\n{row}\n")
        refused(lambda: expected.read(path), "expected.csv, line")
        refused(
            lambda: gate.main(["--exact", "--models", "overlock_xt", "--expected", str(path)]), "expected.csv, line"
        )
        refused(lambda: gate.main(["--exact", "--expected", str(path), "--update"]), "expected.csv, line")


def test_claims_of_damaged_files(damaged: Path) -> None:
    refused(lambda: claims.main(["--records", str(damaged)]), "damaged.csv")


@pytest.mark.parametrize("body", ["raise RuntimeError('one\\ntwo')", "import sys; sys.exit(3)", "1 +"])
def test_a_module_that_cannot_be_imported_is_named(body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raising_module.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    refused(lambda: import_modules(["raising_module"]), "--import raising_module", "it raises")


@pytest.mark.parametrize(("given", "name"), [("bf16", "bfloat16"), ("fp16", "float16"), ("amp-half", "amp-float16")])
def test_short_names_of_dtypes(given: str, name: str) -> None:
    assert cli.dtype(given) == name
    assert compare.parser().parse_args(["--models", "m", "--dtype", "fp32", "tf32"]).dtypes == ["float32", "tf32"]


@pytest.mark.parametrize("resolution", ["none", ""])
def test_a_figure_of_no_resolution_has_a_row(resolution: str) -> None:
    (row,) = rows([Placed(replace(RECORD, resolution=resolution), "")])
    assert row.pixels == 0


def test_a_bar_in_a_name_is_no_cell() -> None:
    text = table(["a|b", "c"], [["x|y", "z"]], "markdown")
    assert "a\\|b" in text
    assert "x\\|y" in text


class WorksError(BaseException):
    """The command would measure now."""


def works(*args: object, **kwargs: object) -> NoReturn:
    raise WorksError


BEGINNINGS = {
    "compare": ["--models", "convnext_t", "--metrics", "throughput", "--save"],
    "top1": ["--models", "convnext_t", "--weights", "random", "--data", "{data}", "--save"],
    "ade20k": ["--models", "moganet_xt", "--weights", "random", "--data", "{data}", "--device", "cpu", "--save"],
    "coco": ["--models", "moganet_xt", "--weights", "random", "--data", "{coco}", "--device", "cpu", "--save"],
    "calibrate": [],
    "validation.runtimes": ["--modes", "none", "--save"],
    "gate": ["--speed", "--record", "--device", "cpu", "--results", "{results}"],
}
WORK = ("engine.passes.check", "engine.interleaved.measure", "accuracy.command.run", "dense.command.load_model",
        "machine.environment.collect", "dense.evaluate_command.collect")  # fmt: skip


@pytest.mark.parametrize("damage", ["environments.jsonl", "records.csv", None])
@pytest.mark.parametrize("name", BEGINNINGS)
def test_where_figures_are_kept_is_looked_at_before_they_are_measured(
    name: str, damage: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a damaged file among ours it is refused; without one, what is patched here is what would work."""
    results = tmp_path / "results"
    (results / "here").mkdir(parents=True)
    if damage is not None:
        (results / "here" / damage).write_text("damaged\n")
    data = write_ade20k(tmp_path / "data", {"a": np.zeros((8, 8), np.uint8)})
    coco = write_coco(tmp_path / "coco", {"0.png": [(1, (1, 1, 3, 3))], "1.png": [(2, (2, 2, 3, 3))]}, (8, 12))
    monkeypatch.setattr(store, "results_folder", lambda: results)
    for work in WORK:
        monkeypatch.setattr(f"bench.{work}", works)
    args = [word.format(data=data, coco=coco, results=results) for word in BEGINNINGS[name]]
    command = importlib.import_module(f"bench.{name}")
    if damage is None:
        with pytest.raises(WorksError):
            command.main(args)
    else:
        refused(lambda: command.main(args), str(results / "here" / damage))
