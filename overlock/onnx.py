"""Export to ONNX: `export_onnx(model, path)`, any batch, one image size.

Everything is written in PyTorch's public operators (`overlock.tracing`), ContMix by its definition, so that the
file runs wherever ONNX does. It is a form for exchange, not for speed: ContMix's windows are materialised in it.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

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
        program = torch.onnx.export(
            model,
            (example,),
            input_names=["image"],
            output_names=outputs,
            dynamic_shapes=({0: batch},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.save(os.fspath(path))
    return Path(path)
