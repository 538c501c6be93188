"""Other runtimes than PyTorch: real exports of a small model, run by each, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench import compare
from bench.cli import BadInput
from bench.engine import runtimes, subject
from bench.engine.request import Request, Settings

pytest.importorskip("onnxscript")

COMPARE = ["--models", "test_vit", "--resolutions", "160", "--batch-size", "2", "--quick"]


def asked(runtime: str, exports: Path) -> Request:
    settings = Settings(device="cpu", layout="channels_first", batch=2, compile=runtime, exports=str(exports))
    return Request(model="test_vit", form="deploy", resolution=(160, 160), settings=settings)


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exports")


@pytest.mark.parametrize("runtime", list(runtimes.PACKAGES))
def test_outputs_are_those_of_pytorch(runtime: str, exports: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(runtime)
    request = asked(runtime, exports)
    ready = subject.prepare(request)
    with torch.inference_mode():
        wanted = ready.call(1)
    known = any(exports.glob("*.ready"))  # exported once, for all runtimes
    assert runtimes.serve(ready, request) == (known, ())
    assert not isinstance(ready.model, nn.Module)
    torch.testing.assert_close(ready.call(1), wanted, rtol=1e-4, atol=1e-5)
    load = runtimes._LOADERS[runtime]

    def off(path: Path, threads: int) -> Any:
        served = load(path, threads)
        return lambda image: served(image) * 1.01

    monkeypatch.setitem(runtimes._LOADERS, runtime, off)
    loaded, (problem,) = runtimes.serve(subject.prepare(request), request)
    assert loaded
    assert "differ from PyTorch's by" in problem


class Undecided(nn.Module):
    """What it does depends on the numbers of its input, which no graph can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight if float(x.sum()) > 0 else x.flatten(1)


def test_what_cannot_be_exported_says_why(tmp_path: Path) -> None:
    request = asked("onnxruntime", tmp_path)
    undecided = subject.Subject(Undecided().eval(), [torch.zeros(2, 3, 160, 160)], torch.device("cpu"), "")
    with pytest.raises(RuntimeError, match="test_vit cannot be exported to ONNX: "):
        runtimes.exported(undecided, request)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--dtype", "bfloat16"], "runs float32 alone, not bfloat16"),
        (["--device", "cuda"], "runs on the CPU, not on cuda"),
        (["--metrics", "training", "throughput"], "leave training out of --metrics"),
        (["--compile", "default"], "--compile is PyTorch's"),
        (["--backend", "tiled"], "--backend is PyTorch's"),
        (["--layout", "channels_last"], "--layout is PyTorch's"),
        (["--breakdown"], "--breakdown is PyTorch's"),
        (["--task", "segmentation"], "runs classifiers alone, not segmentation"),
    ],
)
def test_refused(arguments: list[str], words: str) -> None:
    with pytest.raises(BadInput, match=words) as refused:
        compare.main([*COMPARE, "--runtime", "onnxruntime", *arguments])
    assert "\n" not in str(refused.value)


def test_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(runtimes.PACKAGES, "openvino", ("no_such_package",))
    with pytest.raises(BadInput, match=r"needs no_such_package: pip install 'overlock-bench\[openvino\]'"):
        compare.main([*COMPARE, "--runtime", "openvino"])


@pytest.mark.slow
def test_compare(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    assert (
        compare.main([*COMPARE, "--runtime", "onnxruntime", "--metrics", "throughput", "latency", "compile_time"]) == 0
    )
    assert "compile onnxruntime" in capsys.readouterr().out
