"""What the tests of the kernels say when they have ended, or have not; reported by a real pytest."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.gpu.correctness import FIRST, SINGLE, XDIST
from bench.gpu.reports import FAILED, OUT_OF_MEMORY, PASSED, SKIPPED, outcome, verdict
from bench.paths import REPOSITORY
from tests.overlock.contmix import test_triton


def ended(*outcomes: str) -> list[dict[str, Any]]:
    return [{"id": str(i), "outcome": one, "why": "E  wrong by 3"} for i, one in enumerate(outcomes)]


@pytest.mark.parametrize(
    ("planned", "outcomes", "code", "words"),
    [
        (3, [PASSED] * 3, 0, "correct (3 passed)"),
        (3, [PASSED, SKIPPED, PASSED], 0, "correct (2 passed, 1 skipped)"),
        (3, [PASSED, FAILED, PASSED], 1, "WRONG: a kernel is wrong (2 passed, 1 failed); the first: 1: E  wrong by 3"),
        (3, [PASSED, FAILED], 1, "WRONG: a kernel is wrong (1 passed, 1 failed, 1 not ended)"),
        (3, [PASSED], 1, "NOT KNOWN: no kernel was found wrong, but not every test ended (1 passed, 2 not ended)"),
        (2, [PASSED, OUT_OF_MEMORY], 1, "NOT KNOWN: no kernel was found wrong"),
        (2, [SKIPPED, SKIPPED], 1, "NOT KNOWN"),
        (0, [], 1, "no test of correctness was found or begun"),
    ],
)
def test_exit_code_0_only_if_every_test_ended_and_none_failed(
    planned: int, outcomes: list[str], code: int, words: str
) -> None:
    said = verdict(
        ["correctness"], {"correctness": [str(i) for i in range(planned)]}, {"correctness": ended(*outcomes)}
    )
    assert said.code == code
    assert words in said.words


def test_a_part_that_never_began_is_not_known() -> None:
    said = verdict(["correctness", "correctness_rest"], {"correctness": ["0"]}, {"correctness": ended(PASSED)})
    assert said == (1, "NOT KNOWN: no kernel was found wrong, but not every test ended (1 passed, no test of "
                       "correctness_rest was found or begun)")  # fmt: skip
    assert verdict([], {}, {}).code == 0


def test_out_of_memory_is_told_apart_from_a_wrong_kernel() -> None:
    assert outcome("failed", "E  torch.OutOfMemoryError: CUDA out of memory. Tried ...") == OUT_OF_MEMORY
    assert outcome("failed", "E  assert 0.5 < 1e-3") == FAILED
    assert outcome("passed", "") == PASSED


HANGING = """
import os, signal, time
from pathlib import Path
import pytest

@pytest.mark.parametrize("i", range(3))
def test_it(i):
    if i == 1:
        raise RuntimeError("CUDA out of memory. Tried to allocate 20 GiB")
    if i == 2:
        os.kill(int(os.environ["WHOLE"]), signal.SIGKILL)
        time.sleep(60)
"""
RUNNING = """
import io, os, sys
import pytest
from bench.gpu.reports import Reporter
from bench.gpu.sink import Sink
os.environ["WHOLE"] = str(os.getpid())
sys.exit(pytest.main(sys.argv[1:], plugins=[Reporter(Sink("c", None, 0, False, "cpu", sys.__stderr__))]))
"""


def test_a_test_is_reported_as_it_ends(tmp_path: Path) -> None:
    """pytest is killed within its third test: the two before are known, and that there were three."""
    import json

    (tmp_path / "test_them.py").write_text(HANGING)
    command = [sys.executable, "-c", RUNNING, str(tmp_path / "test_them.py"), "-n", "0", *XDIST]
    env = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == -9
    messages = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert [len(m["planned"]) for m in messages if "planned" in m] == [3]
    assert [m["test"]["outcome"] for m in messages if "test" in m] == [PASSED, OUT_OF_MEMORY]


def test_the_first_tests_are_those_of_bfloat16_and_five_of_float32() -> None:
    """The names in the expression are those of cases: one that is renamed would be left out silently."""
    cases = {str(case) for case in (*test_triton.SMALL, *test_triton.LARGE, *test_triton.DEVICE_ONLY)}
    assert set(SINGLE) < cases
    assert len(SINGLE) == 5
    assert FIRST.startswith("bfloat16 or (float32 and (")
