"""Other runtimes than PyTorch: a model exported to ONNX, and run on the CPU by ONNX Runtime or OpenVINO.

Each is a condition of what it measures, in the place of a mode of `torch.compile` (`Record.compile`). The first process
of a model exports it into the command's temporary folder, and the others load that file. Importing this imports no
torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cli import BadInput, need
from bench.metrics import COST, LATENCY, METRICS, THROUGHPUT

if TYPE_CHECKING:
    from torch import Tensor

    from bench.engine.request import Request
    from bench.engine.subject import Subject

PYTORCH = "pytorch"
PACKAGES = {
    "onnxruntime": ("onnxruntime", "onnx", "onnxscript"),
    "openvino": ("openvino", "onnx", "onnxscript"),
}
"""The runtimes, and what each needs: the extra of its name has it."""

TOLERANCE = 1e-3
"""How far outputs may be from PyTorch's, relative to the largest: another order of sums makes about 1e-5."""


def can_measure(metric: str) -> bool:
    """Whether a metric is one of a runtime's, or counted."""
    return METRICS[metric].kind in (COST, THROUGHPUT, LATENCY) and metric not in ("energy", "cold_start")


def check(runtime: str, device: str, dtypes: Sequence[str], metrics: Sequence[str], task: str) -> None:
    """Whether a runtime can measure what is asked.

    Raises:
        BadInput: if it cannot, or is not installed.
    """
    asked = f"--runtime {runtime}"
    need(asked, runtime, *PACKAGES[runtime])
    if device not in ("auto", "cpu"):
        raise BadInput(f"{asked} runs on the CPU, not on {device}: give --device cpu, or leave --runtime out")
    if list(dtypes) != ["float32"]:
        raise BadInput(f"{asked} runs float32 alone, not {', '.join(dtypes)}: leave --dtypes out")
    if task != "classification":
        raise BadInput(f"{asked} runs classifiers alone, not {task}: leave --task out")
    others = [metric for metric in metrics if not can_measure(metric)]
    if others:
        raise BadInput(f"{asked} measures throughput and latency: leave {', '.join(others)} out of --metrics")


def exported(subject: Subject, request: Request) -> tuple[Path, bool]:
    """The file of a request's model, and whether it was there.

    Raises:
        RuntimeError: where the model cannot be exported, with the exporter's reason.
    """
    from overlock import export_onnx

    what = repr((request.model, request.form, request.resolution, request.checkpoint))
    path = Path(request.settings.exports) / f"{hashlib.sha256(what.encode()).hexdigest()[:24]}.onnx"
    ready = path.with_suffix(".ready")
    if ready.exists():
        return path, True
    try:
        export_onnx(subject.model, path, request.resolution)
    except Exception as error:  # whatever the exporter or the model raises
        reason = next(iter(str(error.__cause__ or error).strip().splitlines()), "")
        raise RuntimeError(f"{request.model} cannot be exported to ONNX: {type(error).__name__}: {reason}") from error
    ready.touch()
    return path, False


def serve(subject: Subject, request: Request) -> tuple[bool, tuple[str, ...]]:
    """Have the subject run by the request's runtime; whether its file was there, and why its outputs cannot be
    trusted."""
    import torch

    runtime = request.settings.compile
    with torch.inference_mode():
        wanted = subject.call(0)
    path, known = exported(subject, request)
    subject.model = _LOADERS[runtime](path, request.settings.threads)  # type: ignore[assignment]
    difference = float((subject.call(0) - wanted).abs().max() / wanted.abs().max())
    if difference < TOLERANCE:
        return known, ()
    return known, (f"outputs of {runtime} differ from PyTorch's by {difference:.1e} of the largest",)


def _onnxruntime(path: Path, threads: int) -> Callable[[Tensor], Tensor]:
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda image: torch.from_numpy(session.run(None, {"image": image.numpy()})[0])


def _openvino(path: Path, threads: int) -> Callable[[Tensor], Tensor]:
    import openvino
    import torch

    settings: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",  # all threads for one call, as elsewhere
        "INFERENCE_PRECISION_HINT": "f32",  # it would take bfloat16 where there is hardware for it
    }
    request = openvino.Core().compile_model(str(path), "CPU", settings).create_infer_request()
    return lambda image: torch.from_numpy(request.infer([image.numpy()])[0])


_LOADERS = {"onnxruntime": _onnxruntime, "openvino": _openvino}
