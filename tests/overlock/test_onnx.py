"""ONNX: the exported files against the models, in onnxruntime, at batches that the export did not see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn

import baselines  # noqa: F401 - registers UniRepLKNet
import overlock
from overlock import OverLoCKPyramid, deploy, export_onnx
from overlock.contmix import exported
from overlock.tracing import is_exporting
from tests.golden_tools import fill, image, relative_error
from tests.overlock.tools import SMALLEST, built, tiny

pytest.importorskip("onnxscript")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

BATCHES = (1, 2, 5)


def session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def check(model: nn.Module, path: Path, size: tuple[int, int]) -> None:
    """Export `model`, and run the file beside it."""
    assert export_onnx(model, path, size) == path
    assert not is_exporting()
    exported = session(path)
    for batch in BATCHES:
        x = image(batch, (batch, 3, *size), torch.float32)
        with torch.inference_mode():
            wanted = model(x)
        got = [torch.from_numpy(y) for y in exported.run(None, {"image": np.asarray(x)})]
        wanted = wanted if isinstance(wanted, list) else [wanted]
        for a, b in zip(got, wanted, strict=True):
            assert relative_error(a, b) < 1e-5
            if batch > 1:  # the images' outputs differ by a thousandth, which float32 rounds to some 1e-7
                assert relative_error(a[1] - a[0], b[1] - b[0]) < 2e-3


def form(model: nn.Module, name: str) -> nn.Module:
    return deploy(model) if name == "deploy" else model.eval()


# 33x47: maps smaller than the kernels, odd, regions of unequal size
@pytest.mark.parametrize(
    ("name", "size"), [("deploy", (33, 47)), pytest.param("train", (64, 224), marks=pytest.mark.slow)]
)
def test_small_network(tmp_path: Path, name: str, size: tuple[int, int]) -> None:
    model, path, x = form(tiny(), name), tmp_path / "model.onnx", image(0, (2, 3, *size), torch.float32)
    with torch.inference_mode():
        before = model(x)  # the deploy form now holds this size's biases; in the tests below it does not
    check(model, path, size)
    with torch.inference_mode():
        assert torch.equal(model(x), before)
    graph = onnx.load(path).graph
    assert [x.name for x in graph.input] == ["image"]
    assert [y.name for y in graph.output] == ["logits"]
    shape = [d.dim_param or d.dim_value for d in graph.input[0].type.tensor_type.shape.dim]
    assert shape == ["batch", 3, *size]
    assert {node.domain for node in graph.node} == {""}


@pytest.mark.slow  # small networks of both forms are exported in every run
def test_pyramid(tmp_path: Path) -> None:
    """Of the training form: its other operators than the deploy form's are seen here."""
    model = fill(OverLoCKPyramid(tiny(), out_indices=(1, 3), form="detection")).eval()
    check(model, tmp_path / "model.onnx", (64, 96))
    assert [y.name for y in session(tmp_path / "model.onnx").get_outputs()] == ["feature1", "feature3"]


def test_by_pytorchs_own_function(tmp_path: Path) -> None:
    """As timm's onnx_export.py calls it, of a model that has not run yet: standard operators, any batch."""
    for cached in (exported.tables, exported.plan):
        cached.cache_clear()
    model, path, size = form(tiny(), "deploy"), tmp_path / "model.onnx", (33, 47)
    batch = torch.export.Dim("batch")
    torch.onnx.export(
        model, (torch.zeros(2, 3, *size),), path, dynamo=True, dynamic_shapes=({0: batch},), verbose=False,
        optimize=False, input_names=["image"],
    )  # fmt: skip
    assert {node.domain for node in onnx.load(path).graph.node} <= {"", "pkg.onnxscript.torch_lib.common"}
    x = image(0, (3, 3, *size), torch.float32)
    with torch.inference_mode():
        wanted = model(x)
    (got,) = session(path).run(None, {"image": np.asarray(x)})
    assert relative_error(torch.from_numpy(got), wanted) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train", "deploy"])
@pytest.mark.parametrize("size", [(224, 224), (96, 64)])
def test_registered_overlock(tmp_path: Path, name: str, size: tuple[int, int]) -> None:
    check(form(built(SMALLEST), name), tmp_path / "model.onnx", size)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in overlock.VARIANTS if name != SMALLEST])
def test_larger_variants(tmp_path: Path, name: str) -> None:
    check(deploy(built(name)), tmp_path / "model.onnx", (64, 64))


@pytest.mark.parametrize("size", [(64, 64), pytest.param((224, 224), marks=pytest.mark.slow)])
def test_unireplknet(tmp_path: Path, size: tuple[int, int]) -> None:
    check(deploy(fill(timm.create_model("unireplknet_a"))), tmp_path / "model.onnx", size)


def test_what_cannot_be_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="in training mode"):
        export_onnx(tiny().train(), tmp_path / "model.onnx")
    with pytest.raises(ValueError, match="31x64 is below 32x32 pixels"):
        export_onnx(tiny().eval(), tmp_path / "model.onnx", (31, 64))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="needs onnx and onnxscript: pip install onnx onnxscript"):
        export_onnx(tiny().eval(), tmp_path / "model.onnx")
    assert not [*tmp_path.iterdir()]
