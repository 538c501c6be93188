"""Scripts find the suite's models by their names."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench import timm_script

SCRIPT = """
import sys, timm, helper
assert __name__ == "__main__"
print(sys.argv[1:], helper.VALUE, [timm.is_model(name) for name in ("overlock_t", "moganet_t", "convnext_t")])
"""


def test_runs_a_script_with_its_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "helper.py").write_text("VALUE = 7")
    (tmp_path / "script.py").write_text(SCRIPT)
    before = list(sys.argv), list(sys.path)
    assert timm_script.main([str(tmp_path / "script.py"), "--model", "overlock_t", "--help"]) == 0
    assert capsys.readouterr().out == "['--model', 'overlock_t', '--help'] 7 [True, True, True]\n"
    assert (sys.argv, sys.path) == before


def test_what_a_script_exits_with_is_the_commands(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("raise SystemExit(7)")
    with pytest.raises(SystemExit) as stopped:
        timm_script.main([str(tmp_path / "script.py")])
    assert stopped.value.code == 7


@pytest.mark.parametrize("argv", [["none.py"], []])
def test_a_script_that_is_not_there(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        timm_script.main(argv)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
