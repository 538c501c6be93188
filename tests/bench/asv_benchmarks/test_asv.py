"""asv's side: its configuration installs what the package needs; its benchmarks are the suite's own measurements."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench import asv_machine
from bench.asv_benchmarks import accuracy
from bench.cli import BadInput
from bench.models import MODELS
from bench.paths import REPOSITORY

MODULES = ("networks", "operators", "accuracy")


def configuration() -> dict[str, object]:
    text = (REPOSITORY / "asv.conf.json").read_text(encoding="utf-8")
    return dict(json.loads(re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE)))


def test_dependencies_stand_in_the_wheel_alone_and_a_commit_replaces_its_own_version() -> None:
    conf = configuration()
    assert "req" not in conf.get("matrix", {})  # type: ignore[operator]
    first, second = conf["install_command"]  # type: ignore[misc]
    assert "--no-deps" not in first
    assert "--no-deps --force-reinstall" in second


def test_asv_works_on_whatever_is_checked_out() -> None:
    """A checkout of a tag, or a shallow one, has no branch `main`."""
    assert configuration()["branches"] == ["HEAD"]


def test_benchmarks_import_without_torch() -> None:
    """asv starts a process for each benchmark and parameter."""
    names = ", ".join(f"bench.asv_benchmarks.{name}" for name in MODULES)
    code = f"import sys, {names}; assert 'torch' not in sys.modules and 'pandas' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", MODULES)
def test_methods_are_versioned_and_timings_have_rounds_enough(name: str) -> None:
    module = importlib.import_module(f"bench.asv_benchmarks.{name}")
    assert set(getattr(module, "MODELS", ())) <= set(MODELS)
    classes = [v for v in vars(module).values() if isinstance(v, type) and v.__module__ == module.__name__]
    assert classes
    for found in classes:
        assert found.version.isdigit(), "asv would hash the source"  # type: ignore[attr-defined]
        for key, function in vars(found).items():
            if key.startswith("track_") and function.unit == "seconds":
                assert function.rounds >= 8, "asv calls nothing different with fewer samples"


def test_accuracy_is_skipped_where_no_data_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(accuracy.VARIABLE, raising=False)
    with pytest.raises(NotImplementedError, match=accuracy.VARIABLE):
        accuracy.Top1().setup("overlock_t")


def test_why_accuracy_cannot_be_had_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(accuracy.VARIABLE, str(tmp_path / "none"))
    with pytest.raises(RuntimeError, match=r"BENCH_IMAGENET: bench\.top1: error: --data .*none: there is no such file"):
        accuracy.Top1().track_error("overlock_t")


def test_the_machine_is_described_with_gpu_driver_and_torch(tmp_path: Path) -> None:
    path = tmp_path / "machines.json"
    path.write_text('{"other": {"machine": "other"}, "version": 1}')
    assert asv_machine.main(["--file", str(path)]) == 0
    written = json.loads(path.read_text())
    (mine,) = (value for key, value in written.items() if key not in ("other", "version"))
    assert {"machine", "os", "arch", "cpu", "num_cpu", "ram", "gpu", "driver", "torch"} <= set(mine)
    assert mine["torch"]
    assert written["other"] == {"machine": "other"}
    for other in ("[]", '{"a": 1}', "[" * 100_000, "{"):
        path.write_text(other)
        with pytest.raises(BadInput, match="not asv's file"):
            asv_machine.main(["--file", str(path)])
        assert path.read_text() == other


def test_no_home_for_the_file_of_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(BadInput, match="--file: there is no home"):
        asv_machine.main([])
