"""What is warmed up is what is timed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bench.engine.request import Request
from bench.gpu import warm, warming
from bench.gpu.configurations import HEADLINE, TRAINING_SIDES, requests
from bench.gpu.parts import FUSIONS_VARIABLE, VARIABLE
from bench.metrics import THROUGHPUT
from tests.bench.gpu.tools import Heard

SAYS = """
import json, os, sys, time
from pathlib import Path
folder, number = Path(sys.argv[1]), len(list(Path(sys.argv[1]).iterdir()))
own = folder / str(os.getpid())
own.write_text(json.dumps([json.loads(sys.argv[-1])["label"], os.environ["{variable}"],
                           os.environ["TORCHINDUCTOR_COMPILE_THREADS"], number]))
time.sleep(0.1)
own.rename(folder.parent / own.name)
"""


@pytest.mark.parametrize("at_once", [1, 2])
def test_a_side_is_warmed_up_in_its_own_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    live, part = tmp_path / "live", Heard(tmp_path)
    live.mkdir()
    module = tmp_path / "says.py"
    module.write_text(SAYS.format(variable=VARIABLE))
    started = warm.subprocess.Popen
    monkeypatch.setattr(
        warm.subprocess, "Popen", lambda c, **how: started([sys.executable, str(module), str(live), c[-1]], **how)
    )
    sides = requests(HEADLINE[:3], part, THROUGHPUT)
    warm.warm(part, sides, at_once)
    said = [json.loads(file.read_text()) for file in tmp_path.iterdir() if file.name.isdigit()]
    assert {(name, depthwise) for name, depthwise, *_ in said} == {(c.name, c.depthwise) for c in HEADLINE[:3]}
    assert {threads for *_, threads, _ in said} == {"3"}
    assert max(number for *_, number in said) <= at_once - 1, "so many beside it when it began"
    assert len(part.told("note")) == 3
    assert sorted(json.loads(part.told("text")[-1])) == sorted(c.name for c in HEADLINE[:3])


def test_kernels_are_shared_out_before_sides_are_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four B kernels of 17 s one after another, in each process that needs them, would outlast the part."""
    begun: list[Request] = []
    monkeypatch.setattr(warm, "sink", lambda args: Heard(tmp_path))
    monkeypatch.setattr(warm, "warm", lambda part, waiting, at_once: begun.extend(waiting))
    assert warm.main(["--name", "compile", "--folder", str(tmp_path), "--seconds", "85"]) == 0
    first, then = begun[: warm.AT_ONCE], begun[warm.AT_ONCE :]
    assert [side.env[warm.SHARE] for side in first] == ["1/4", "2/4", "3/4", "4/4"]
    assert {(side.env[VARIABLE], side.env[FUSIONS_VARIABLE]) for side in first} == {("triton", "all")}
    assert [side.label for side in then] == [c.name for c in (*HEADLINE, *TRAINING_SIDES)]
    assert not any(warm.SHARE in side.env for side in then)


def test_shares_are_everything_and_each_variant_once(monkeypatch: pytest.MonkeyPatch) -> None:
    jit = pytest.importorskip("triton.runtime.jit")
    launched: list[tuple[str, int]] = []
    monkeypatch.setattr(jit.JITFunction, "run", lambda self, x, n, **how: launched.append((self.__name__, n)))
    x = torch.empty(64)
    for number in (1, 2, 3, 4):
        with warming.share(number, 4):
            for name, n in (("up", 1), ("up", 1), ("up", 2), ("down", 1), ("up", 3), ("up", 2), ("up", 4), ("up", 5)):
                jit.JITFunction.run(SimpleNamespace(__name__=name), x, n, grid=(n,), warmup=False)
        if number == 1:
            assert launched == [("up", 1), ("down", 1), ("up", 5)]
    assert sorted(launched) == [("down", 1), *(("up", n) for n in (1, 2, 3, 4, 5))]


def test_every_side_that_is_timed_first_is_warmed_up() -> None:
    """With the same backend, compiler, layout, convolutions and fusions; those that train come one at a time."""
    assert {c.depthwise for c in HEADLINE} == {"torch", "triton", "padded", "winners"}
    assert {c.fusions for c in HEADLINE} == {"none", "mlp", "all"}
    assert (HEADLINE[2].depthwise, HEADLINE[2].fusions) == ("triton", "all"), "the first after the pair"
    assert not any(c.compiled for c in TRAINING_SIDES)
