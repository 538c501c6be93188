"""The GPU run: its script on the CPU with real processes, floors, summary; and what the kernels compile to."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pytest

from bench import gpu_run
from bench.cli import BadInput
from bench.gpu.archive import ARCHIVE, read
from bench.gpu.floors import Rates, contmix_work, depthwise_work
from bench.gpu.kept import Kept, kept_in
from bench.gpu.parts import DEPTHWISE, PARTS, WINNERS
from bench.gpu.summary import NOT_MEASURED, faster_from, figures, summary
from bench.paths import REPOSITORY
from bench.records.record import Record


def record(**values: Any) -> Record:
    defaults = {"model": "overlock_t", "form": "deploy", "metric": "throughput_ratio", "value": 1.5, "unit": "ratio",
                "resolution": "224"}  # fmt: skip
    return Record(**{**defaults, **values})


def test_floor_of_overlock_ts_third_stage() -> None:
    work = contmix_work(1, 14, 13, 8, 16, "bfloat16")
    tokens = 196 * 8  # of 8 heads
    assert work.macs == tokens * 2 * 16 * 194 + 8 * 16 * 49 * 194  # logits and aggregation, 194 taps; projected keys
    assert work.bytes == 2 * (5 * tokens * 16 + 8 * 16 * 49)  # query, value and output are 1 + 2 + 2 maps
    assert (
        work.floor(Rates(bandwidth=4.8e12, macs={"bfloat16": 494.7e12}), "bfloat16") == work.bytes / 4.8e12
    )  # moving is more than multiplying
    assert depthwise_work(2, 3, 4, 5, "float32").macs == 2 * 3 * 16 * 25


def test_figures_of_the_summary() -> None:
    assert [f.value for f in figures({})] == [None] * 5
    note = "OverLoCK-T deploy / ConvNeXt-B: a against b, each the best of its configurations"
    kept = {
        "headline": [
            record(against="convnext_b deploy", notes=(note,), lo=1.4, hi=1.6, n=3),
            record(metric="memory", unit="bytes", value=7.0),
            record(model="convnext_b", metric="memory", unit="bytes", value=10.0),
        ],
        "contmix": [
            record(model="contmix stage 3", form="forward", metric="over_floor", backend="fused", dtype="bfloat16",
                   batch=256, value=3.0)
        ],
    }  # fmt: skip
    found = {f.what: f for f in figures(kept)}
    assert found["OverLoCK-T deploy / ConvNeXt-B"][1:] == (1.5, "1.40 to 1.60, 3 rounds", "")
    assert found["fused ContMix, stage 3 of T: time over its floor"].value == 3.0
    assert found["peak memory, OverLoCK-T / ConvNeXt-B"].value == pytest.approx(0.7)
    assert found["OverLoCK-T deploy / its plain form"].value is None


def test_the_summary_says_what_is_invalid() -> None:
    note = "OverLoCK-T deploy / ConvNeXt-B: a against b"
    restless = record(against="convnext_b deploy", notes=(note,), valid=False, reasons=("the canary moved",))
    environment = {"cpu": "a", "cores": 1, "memory_bytes": 1, "os": "b", "python": "3", "device": "cpu",
                   "libraries": {"torch": "2", "timm": "1"}}  # fmt: skip
    kept = Kept(environment, records={"headline": {"pair": [restless]}})
    text = summary(kept, real=True)
    (line,) = (line for line in text.splitlines() if line.startswith("| OverLoCK-T deploy / ConvNeXt-B"))
    assert "| 1.50 " in line
    assert "| invalid: the canary moved |" in line
    assert text.count(NOT_MEASURED) == 4


def test_from_how_many_tokens_fused_is_the_fastest() -> None:
    def timed(batch: int, backend: str, value: float | None, **values: Any) -> Record:
        conditions = {"model": "contmix stage 3", "form": "forward", "metric": "operator_time", "resolution": "14"}
        return record(**{**conditions, **values}, batch=batch, backend=backend, value=value, dtype="bfloat16")

    small = [timed(1, "fused", 2.0), timed(1, "tiled", 1.0)]
    large = [timed(batch, name, value) for batch in (16, 256) for name, value in (("fused", 1.0), ("tiled", 2.0))]
    assert faster_from([*small, *large]) == 16 * 196
    assert faster_from(small) is None
    loses = [timed(256, "fused", 3.0, form="backward"), timed(256, "tiled", 2.0, form="backward")]
    assert faster_from([*small, *large, *loses]) is None
    other_launch = timed(256, "fused", 9.0, model="contmix stage 3, Launch(queries=64, warps=4, stages=3)")
    assert faster_from([*large, other_launch, timed(1, "fused", None), timed(1, "tiled", 1.0)]) == 16 * 196
    assert faster_from([]) is None


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *arguments]
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | environment
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, env=env, check=False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--minutes", "0"], "--minutes 0: give a time above 0"),
        (["--device", "cpu"], "--device cpu: this measures CUDA devices; --dry-run tests the script on a CPU"),
        ([], "there is no CUDA device here; --dry-run tests the script on a CPU"),
        (["--winners", "nowhere.json"], "--winners nowhere.json: neither depthwise_winners.json nor an archive with"),
    ],
)
def test_bad_input(arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(BadInput, match=re.escape(words)):
        gpu_run.main(["--out", str(tmp_path / "out"), *arguments])


def test_an_earlier_runs_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / ARCHIVE).write_text("")
    with pytest.raises(BadInput, match="there is the archive of an earlier run; give another folder"):
        gpu_run.main(["--out", str(tmp_path), "--dry-run"])
    with pytest.raises(BadInput, match="--out DIR: say where the archive is to go"):
        gpu_run.main(["--dry-run"])


def test_a_machine_that_cannot_be_described_is_measured_all_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_run, "DESCRIBE", "raise RuntimeError('NVML has no such function')")
    device, environment = gpu_run._environment("auto", False, False)
    assert device == "cuda"
    assert "undescribed" in environment
    assert "NVML has no such function" in capsys.readouterr().err
    assert "Python" in summary(Kept(environment), real=True)


@pytest.mark.slow
def test_dry_run(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run("bench.gpu_run", "--out", str(out), "--dry-run", "--minutes", "8", TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stderr + done.stdout
    assert sorted(file.name for file in out.iterdir()) == [ARCHIVE, "summary.md"]
    texts = read(out / ARCHIVE)
    kept = kept_in(texts, tmp_path)
    for part in PARTS:
        if not part.extra:
            assert any(p["part"] == part.name and p["how"] == "done" for p in kept.parts), done.stdout
            assert bool(kept.of(part.name)) == (part.module not in ("bench.gpu.warm", "bench.gpu.correctness"))
    assert kept.tests["correctness"]
    metrics = {r.metric for part in kept.records for r in kept.of(part)}
    assert metrics >= {"throughput", "throughput_ratio", "training", "training_ratio", "memory", "operator_time",
                       "operator_time_eager", "over_floor", "copy_bandwidth"}  # fmt: skip
    assert done.stdout.count(NOT_MEASURED) >= 5  # a dry run gives none of the figures
    assert json.loads(texts[WINNERS])
    assert any(note.startswith(DEPTHWISE) for r in kept.of("headline") for note in r.notes)


def _resources(*arguments: str) -> list[dict[str, Any]]:
    done = run("bench.gpu.resources", "--format", "json", *arguments)
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def test_kernels_compile_for_hopper() -> None:
    """In a process of its own, without the interpreter; no GPU is needed. The others are slow."""
    pytest.importorskip("triton")
    rows = _resources("--operators", "depthwise stage 4 as it is", "block stage 4")
    assert {r["kernel"] for r in rows} == {"depthwise_last_kernel", *BLOCK}
    for r in rows:
        assert (r["matrix"] > 0) == (r["kernel"] not in WITHOUT_PRODUCTS), f"{r['kernel']}: matrix instructions"
        assert r["spilled"] == 0, f"{r['kernel']} spills {r['spilled']} bytes a thread"
        assert r["shared"] <= 200 << 10, f"{r['kernel']} takes {r['shared']} bytes of shared memory"


BLOCK = ("norm_kernel", "middle_kernel", "squeeze_kernel", "gate_kernel", "down_kernel")
WITHOUT_PRODUCTS = ("place_kernel", "norm_kernel", "middle_kernel", "squeeze_kernel")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_every_kernel_and_dtype_compiles_for_hopper(dtype: str) -> None:
    pytest.importorskip("triton")
    rows = _resources("--dtypes", dtype)
    kernels: dict[str, set[str]] = {}
    for r in rows:
        kernels.setdefault(r["operator"], set()).add(r["kernel"])
    gradients = {"query_kernel", "taps_kernel", "value_kernel"}
    contmix = {"stage 3": "shared_kernel", "stage 4": "shared_kernel", "stage 3 at 288": "sliding_kernel"}
    depthwise = {"place_kernel", "depthwise_kernel", "depthwise_weight_kernel"}
    wanted = {f"contmix {stage}": {"small_kernel", name, *gradients} for stage, name in contmix.items()}
    if dtype == "float32":
        wanted["contmix stage 3 at 288"] -= gradients  # left out: `fused.why_no_gradient`
    for i in (1, 3, 4):
        wanted[f"depthwise stage {i}"] = depthwise
        wanted[f"depthwise stage {i} as it is"] = {"depthwise_last_kernel"}
        wanted[f"mlp stage {i}"], wanted[f"block stage {i}"] = {"up_kernel", "middle_kernel", "down_kernel"}, {*BLOCK}
    assert kernels == wanted
    for r in rows:
        assert r["shared"] <= 200 << 10, f"{r['kernel']} takes {r['shared']} bytes of shared memory"
        assert r["spilled"] <= (64 if dtype != "float32" else 300), (
            f"{r['kernel']} spills {r['spilled']} bytes a thread"
        )
        if dtype != "float32":
            assert (r["matrix"] > 0) == (r["kernel"] not in WITHOUT_PRODUCTS), f"{r['kernel']}: matrix instructions"


def test_the_table_of_failures_needs_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.gpu.failures.table_of_failures", lambda *args: pytest.fail("it began"))
    (tmp_path / "file").touch()
    for out, why in (
        (tmp_path, "it is not empty"),
        (tmp_path / "file", "File exists"),
        (Path("/dev/full"), "File exi"),
    ):
        with pytest.raises(BadInput, match=f"--out {out}: {why}"):
            gpu_run.main(["--simulate", "--out", str(out)])


ENVIRONMENT = b'{"run": "r", "environment": {"cpu": "c", "cores": 2}}'


@pytest.mark.parametrize(
    "files",
    [
        {"../planted.csv": b"model,metric\n"},
        {"/dev/shm/planted.csv": b"model,metric\n"},
        {},
        {"environment.json": b"[]"},
        {"environment.json": b"{"},
        {"environment.json": b"[" * 200_000},
        {"environment.json": ENVIRONMENT},
        {"environment.json": b'{"environment": 3}'},
        {"environment.json": ENVIRONMENT, "tests.jsonl": b'{"no": "part"}\n'},
        {"environment.json": ENVIRONMENT, "parts.jsonl": b"3\n"},
        {"environment.json": ENVIRONMENT, "speed.csv": b"a,b\n1,2\n"},
    ],
)
def test_an_archive_of_others_is_refused_and_nothing_is_unpacked_elsewhere(
    files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    with tarfile.open(tmp_path / ARCHIVE, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    with pytest.raises(BadInput):
        gpu_run.main(["--summarise", str(tmp_path / ARCHIVE)])
    assert not list(tmp_path.rglob("planted.csv"))
    assert not Path("/dev/shm/planted.csv").exists()
