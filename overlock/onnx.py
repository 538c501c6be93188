"""Export to ONNX: `export_onnx(model, path)`, any batch, one image size.

Everything is written in PyTorch's public operators (`overlock.tracing`), ContMix as matrix products over tiles
(`overlock.contmix.exported`), so that the file runs wherever ONNX does, and fast in ONNX Runtime and OpenVINO.

PyTorch's own optimizer of the graph is left out: it takes twice the time of all the rest, and what it finds a runtime
finds when it loads the file. Constants are folded, and what is computed twice is computed once.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from overlock.layers import SMALLEST
from overlock.tracing import exporting

PACKAGES = ("onnx", "onnxscript")


def export_onnx(
    model: nn.Module, path: str | os.PathLike[str], size: tuple[int, int] = (224, 224), in_chans: int = 3
) -> Path:
    """Write `model` to `path`: input `image` (B, C, H, W), output `logits` (B, classes), any B.

    A feature pyramid's outputs are `feature0`, `feature1`, ... by their index in it.

    Args:
        model: in evaluation mode; the file of `deploy(model)` is smaller and faster than that of the training form.
        path: of the file; weights of more than 2 GB go beside it, into `<path>.data`.
        size: (H, W) in pixels. A file serves one size.
        in_chans: C.

    Returns:
        `path`.

    Raises:
        ValueError: for a model in training mode, or a size below 32.
        ImportError: without the packages that PyTorch's exporter needs.
    """
    missing = [package for package in PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        raise ImportError(f"export to ONNX needs {' and '.join(missing)}: pip install {' '.join(missing)}")
    if model.training:
        raise ValueError("the model is in training mode: export model.eval(), or better deploy(model)")
    if min(size) < SMALLEST:
        raise ValueError(f"size {size[0]}x{size[1]} is below {SMALLEST}x{SMALLEST} pixels")
    like = next(tensor for tensor in model.state_dict().values() if tensor.is_floating_point())
    outputs = [f"feature{i}" for i in getattr(model, "out_indices", ())] or ["logits"]
    batch = torch.export.Dim("batch")
    with exporting(), torch.inference_mode(False), torch.no_grad():
        example = torch.zeros(2, in_chans, *size, device=like.device, dtype=like.dtype)  # of 1 would fix the batch
        model(example)  # tables of indices are made now: a tracer would record how, at every place that reads them
        program = torch.onnx.export(
            model,
            (example,),
            input_names=["image"],
            output_names=outputs,
            dynamic_shapes=({0: batch},),
            dynamo=True,
            verbose=False,
            optimize=False,
        )
    assert program is not None
    _simplify(program.model)
    program.save(os.fspath(path))
    return Path(path)


def _simplify(model: Any) -> None:
    """Fold constants, compute what is equal once, and leave out what nobody reads; in place."""
    from onnx_ir.passes import common
    from onnxscript import optimizer

    optimizer.fold_constants(model)
    optimizer.remove_unused_nodes(model)
    for same in (common.DeduplicateInitializersPass(), common.CommonSubexpressionEliminationPass()):
        same(model)
    optimizer.remove_unused_nodes(model)
