"""`python -m bench` lists every command and runs it; nothing of that imports torch."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

import overlock
from bench.__main__ import commands, main, version
from bench.cli import BadInput
from bench.paths import PACKAGE


def test_every_command_is_listed_with_what_it_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    known = commands()
    files = {path.stem for path in PACKAGE.glob("*.py") if 'if __name__ == "__main__":' in path.read_text()}
    assert set(known) == files - {"__main__"}
    assert all(words.endswith(".") for words in known.values())
    assert main([]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out and words in out for name, words in known.items())


@pytest.mark.parametrize("name", ["gate", "bench.gate"])
def test_a_command_is_run_and_its_exit_code_is_ours(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.argv
    with pytest.raises(SystemExit) as ended:
        main([name, "--accuracy", "/nowhere"])
    sys.argv = before
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("bench.gate: error: --accuracy PATH: give --against")


def test_no_command_is_refused_with_the_nearest() -> None:
    with pytest.raises(BadInput, match="did you mean compare"):
        main(["comparee"])


def test_the_version_stands_in_one_place() -> None:
    assert version() == overlock.__version__
    try:
        installed = importlib.metadata.version("overlock-bench")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("not installed here")
    assert installed == version()


def test_the_list_needs_no_torch(tmp_path: Path) -> None:
    code = "import sys, bench.__main__ as b; b.main([]); b.main(['--version']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
