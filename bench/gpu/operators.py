"""A part of the GPU run: each operator by each implementation, its time over the floor, and which one is the fastest.

Experimental: it has not run on a GPU.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.gpu.floors import Rates, Work, contmix_work, depthwise_work
from bench.gpu.parts import WINNERS, Sink, arguments, sink
from bench.machine.clock import time_calls
from bench.machine.environment import CUDNN_BENCHMARK, now
from bench.records.record import Record
from overlock.contmix.inputs import Backend, Inputs
from overlock.shapes import ContMixShape, DepthwiseShape, contmix_shapes, depthwise_shapes

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "tf32": torch.float32, "float32": torch.float32}
SETS = 3  # sets of inputs, taken in turn, so that a call's own are not in the cache
LAYOUTS = {"channels_last": torch.channels_last, "channels_first": torch.contiguous_format}


class Timer:
    """Median seconds of a call over blocks of back-to-back calls, after calls that compile and choose kernels."""

    def __init__(self, part: Sink) -> None:
        self.device = torch.device(part.device)
        self.block = 0.002 if part.tiny else 0.02
        self.blocks = 3 if part.tiny else 7

    def __call__(self, call: Callable[[int], Any]) -> tuple[float, list[float]]:
        time_calls(call, 2, self.device)
        once = time_calls(call, 1, self.device)[0]
        calls = max(1, round(self.block / max(once, 1e-7)))
        samples = [time_calls(call, calls, self.device, i * calls)[0] / calls for i in range(self.blocks)]
        return statistics.median(samples), samples


def record(part: Sink, what: str, form: str, timed: tuple[float, list[float]] | None, **conditions: Any) -> Record:
    """The record of one timed operator."""
    value, samples = timed or (None, [])
    return Record(
        model=what,
        form=form,
        metric="operator_time",
        value=value,
        unit="s",
        resolution=conditions.pop("resolution", "none"),
        n=len(samples) or None,
        lo=min(samples, default=None),
        hi=max(samples, default=None),
        samples=tuple(samples),
        method="median of blocks of back-to-back calls in one process, inputs in turn; lo and hi: range",
        device=part.device,
        time=now(),
        **conditions,
    )


def attempt(part: Sink, what: str, form: str, timer: Timer, call: Callable[[int], Any], **conditions: Any) -> Record:
    """The record of a timed call, or of its failure: a call that fails does not end the part."""
    try:
        with rounding(str(conditions.get("dtype", ""))):
            return record(part, what, form, timer(call), **conditions)
    except Exception as error:  # Triton raises no narrower class
        text = " ".join(str(error).split())[:200]
        return record(part, what, form, None, **conditions).failed(f"{type(error).__name__}: {text}")


def over_floor(row: Record, work: Work, rates: Rates, dtype: str) -> Iterator[Record]:
    """The row, and its time over its floor at this machine's measured rates."""
    yield row
    if row.value is not None:
        floor = work.floor(rates, dtype)
        values = {**row.to_dict(), "metric": "over_floor", "value": row.value / floor, "unit": "ratio", "samples": (),
                  "lo": None, "hi": None, "n": None, "reasons": (),
                  "notes": (f"floor {floor:.3e} s: {work.bytes:.3e} bytes, {work.macs:.3e} MACs",)}  # fmt: skip
        yield Record(**values)


@contextlib.contextmanager
def rounding(dtype: str) -> Iterator[None]:
    """Within it, products and convolutions may round to TF32 if the dtype is `tf32`, and never otherwise."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = dtype == "tf32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def peaks(part: Sink, timer: Timer) -> Rates:
    """This device's copy bandwidth and rates of large matrix products, measured."""
    length, side = (1 << 16, 64) if part.tiny else (1 << 30, 8192)
    source, target = (torch.ones(length, dtype=torch.uint8, device=part.device) for _ in range(2))
    seconds, samples = timer(lambda i: target.copy_(source))
    bandwidth = 2 * length / seconds
    rows = [record(part, "machine", "copy", (seconds, samples))]
    macs = {}
    for dtype, kind in DTYPES.items():
        a, b = (torch.randn(side, side, device=part.device).to(kind) for _ in range(2))
        with rounding(dtype):
            seconds, samples = timer(lambda i, a=a, b=b: a @ b)  # type: ignore[misc]
        macs[dtype] = side**3 / seconds
        rows.append(record(part, "machine", "matrix product", (seconds, samples), dtype=dtype))
    values = [("copy_bandwidth", "", bandwidth, "bytes/s"), *(("peak_macs", d, v, "MACs/s") for d, v in macs.items())]
    how = "a copy of 1 GiB; products of 8192 x 8192"
    rows += [
        Record(model="machine", form="", metric=metric, value=value, unit=unit, resolution="none", dtype=dtype,
               device=part.device, time=now(), method=how)
        for metric, dtype, value, unit in values
    ]  # fmt: skip
    part.keep(rows)
    return Rates(bandwidth, macs, source="measured")


def contmix_stages() -> dict[str, ContMixShape]:
    """ContMix of OverLoCK-T at 224x224, and its third stage on larger images."""
    larger = {f"stage 3 at {side}": contmix_shapes("overlock_t", side, side)["stage 3"] for side in (288, 384)}
    return contmix_shapes("overlock_t", 224, 224) | larger


def contmix(part: Sink, timer: Timer, rates: Rates) -> None:
    """Time every backend at the sizes of OverLoCK-T's stages, and `fused` in its other launches too."""
    from overlock.contmix import BACKENDS, fused

    stages = {"tiny": ContMixShape(1, 1, 7, 7, 4, 8, 7)} if part.tiny else contmix_stages()
    dtypes = ["float32"] if part.tiny else list(DTYPES)
    names = [name for name in ("fused", "tiled", "reference") if not (part.tiny and name == "fused")]
    batches = [1] if part.tiny else [256, 16, 1]
    cases = sorted(itertools.product(stages, dtypes, batches), key=lambda c: (batches.index(c[2]), dtypes.index(c[1])))
    for stage, dtype, batch in cases:
        if not part.room(2.0, f"ContMix {stage} {dtype} batch {batch}"):
            continue
        shape = replace(stages[stage], batch=batch)
        side, kernel = shape.height, shape.kernel
        sets = [shape.inputs(DTYPES[dtype], part.device, seed) for seed in range(1 if part.tiny else SETS)]
        conditions = {"resolution": str(side), "batch": batch, "dtype": dtype, "layout": "channels_last"}
        for name in names:
            if name == "reference" and (batch > 16 and dtype != "bfloat16"):
                continue
            for backward in (False, True):
                if backward and name == "reference":
                    continue  # autograd of the definition, which runs the forward too
                call = _call(BACKENDS[name], backward, sets)
                work = contmix_work(batch, side, kernel, shape.heads, 16, dtype, backward)
                form = "backward" if backward else "forward"
                row = attempt(part, f"contmix {stage}", form, timer, call, backend=name, **conditions)
                part.keep(list(over_floor(row, work, rates, dtype)))
        if "fused" in names and batch == 256 and dtype == "bfloat16":
            for kind, launches in _other_launches(side, kernel).items():
                backward, before = kind == "short backward", fused.launches[kind]
                for launch in launches:
                    fused.launches[kind] = launch
                    call, form = _call(fused, backward, sets), "backward" if backward else "forward"
                    part.keep(
                        [attempt(part, f"contmix {stage}, {launch}", form, timer, call, backend="fused", **conditions)]
                    )
                fused.launches[kind] = before


def _other_launches(side: int, kernel: int) -> dict[str, tuple[Any, ...]]:
    """The launches to try: those of the large kernel's forward and, at stage 3, those of the 5x5 branch's backward."""
    from overlock.contmix import fused

    if fused.shared_windows(side, side, kernel):
        short = {"short backward": fused.SHORT_BACKWARD_LAUNCHES} if kernel > fused.SHORT else {}
        return {"shared": fused.SHARED_LAUNCHES, **short}
    return {"sliding": fused.SLIDING_LAUNCHES} if kernel > fused.SHORT else {}


def _call(backend: Backend, backward: bool, sets: list[Inputs]) -> Callable[[int], Any]:
    """A function that calls a backend's forward or backward on the sets of inputs in turn."""

    def call(i: int) -> Any:
        inputs = sets[i % len(sets)]
        return backend.backward(inputs.value, inputs, 0.25) if backward else backend.forward(inputs, 0.25)

    return call


def depthwise(part: Sink, timer: Timer, rates: Rates) -> None:
    """Time large depthwise convolutions by PyTorch's choice, by cuDNN (forward only), by PyTorch's own kernels and by
    Triton. A file keeps the cases in which Triton beats PyTorch's choice."""
    from overlock.depthwise.dispatch import Case
    from overlock.depthwise.triton import depthwise as by_triton

    shapes = {"tiny": DepthwiseShape(2, 7, 7, 5)} if part.tiny else depthwise_shapes("overlock_t", 224, 224)
    dtypes = ["float32"] if part.tiny else ["bfloat16", "float16", "tf32", "float32"]
    batch, winners = 1 if part.tiny else 256, []

    def by_torch(x: Tensor, weight: Tensor, cudnn: bool = True) -> Tensor:
        tf32 = torch.backends.cudnn.allow_tf32
        with torch.backends.cudnn.flags(enabled=cudnn, benchmark=CUDNN_BENCHMARK, allow_tf32=tf32):
            return F.conv2d(x, weight, None, 1, weight.shape[-1] // 2, 1, len(weight))

    def by_cudnn(x: Tensor, weight: Tensor) -> Tensor:
        padding, tf32 = [weight.shape[-1] // 2] * 2, torch.backends.cudnn.allow_tf32
        out: Tensor = torch.ops.aten.cudnn_convolution(
            x, weight, padding, [1, 1], [1, 1], len(weight), CUDNN_BENCHMARK, False, tf32
        )
        return out

    paths: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "torch": by_torch,
        "native": lambda x, w: by_torch(x, w, cudnn=False),
    }
    if not part.tiny:
        paths |= {"cudnn": by_cudnn, "triton": by_triton}
    for dtype, (stage, shape), layout in itertools.product(dtypes, shapes.items(), LAYOUTS):
        if not part.room(2.0, f"depthwise {stage} {dtype} {layout}"):
            continue
        kind, channels, side, kernel = DTYPES[dtype], shape.channels, shape.height, shape.kernel
        x = (
            torch.randn(batch, channels, side, side, device=part.device)
            .to(kind)
            .contiguous(memory_format=LAYOUTS[layout])
        )
        weight, grad = torch.randn(channels, 1, kernel, kernel, device=part.device).to(kind), torch.randn_like(x)
        x.requires_grad_()
        weight.requires_grad_()
        times: dict[bool, dict[str, float]] = {False: {}, True: {}}  # by whether gradients are wanted, then path
        for path, run in paths.items():

            def forward(i: int, run: Any = run, x: Tensor = x, weight: Tensor = weight) -> None:
                with torch.no_grad():
                    run(x, weight)

            def both(i: int, run: Any = run, x: Tensor = x, weight: Tensor = weight, grad: Tensor = grad) -> None:
                torch.autograd.grad(run(x, weight), [x, weight], grad)

            for form, call in (("forward", forward), ("forward and backward", both))[: 1 if path == "cudnn" else 2]:
                work = depthwise_work(batch, channels, side, kernel, dtype)
                if form != "forward":
                    back = depthwise_work(batch, channels, side, kernel, dtype, backward=True)
                    work = Work(work.bytes + back.bytes, work.macs + back.macs)
                what = f"depthwise {kernel}x{kernel} {stage}"
                conditions = {"resolution": str(side), "batch": batch, "dtype": dtype, "layout": layout}
                row = attempt(part, what, form, timer, call, backend=path, **conditions)
                part.keep(list(over_floor(row, work, rates, dtype)))
                if row.value is not None:
                    times[form != "forward"][path] = row.value
        if dtype == "tf32":  # a winner holds for float32 as it is, without TF32
            continue
        for gradients, seconds in times.items():
            winner = "triton" if seconds.get("triton", math.inf) < seconds.get("torch", math.inf) else "torch"
            winners.append({"case": Case.of(x, kernel, gradients), "winner": winner, "seconds": seconds})
            (part.folder / WINNERS).write_text(json.dumps(winners, indent=1), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    p = arguments("bench.gpu.operators")
    p.add_argument("--of", choices=("contmix", "depthwise"), required=True)
    args = p.parse_args(argv)
    part = sink(args)
    timer = Timer(part)
    (contmix if args.of == "contmix" else depthwise)(part, timer, peaks(part, timer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
