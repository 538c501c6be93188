"""A part of the GPU run: each operator by each implementation, its time over the floor, and which one is the fastest.

Times are of replays of a CUDA graph; `operator_time_eager` is what a call takes that the host makes by itself. A case
that leaves the device unusable ends the process, and the run starts it again behind that case. Experimental: it has not
run on a GPU.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.gpu import simulation
from bench.gpu.floors import Rates, Work, contmix_work, depthwise_work
from bench.gpu.parts import WINNERS, arguments
from bench.gpu.sink import Sink, sink
from bench.gpu.timer import Timed, Timer, is_sticky
from bench.machine.environment import CUDNN_BENCHMARK, now
from bench.records.record import OUT_OF_MEMORY, Record
from overlock.contmix.inputs import Backend, Inputs
from overlock.shapes import ContMixShape, DepthwiseShape, contmix_shapes, depthwise_shapes

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "tf32": torch.float32, "float32": torch.float32}
SETS = 3  # sets of inputs, taken in turn, so that a call's own are not in the cache
LAYOUTS = {"channels_last": torch.channels_last, "channels_first": torch.contiguous_format}
GRAPH = "replays of a CUDA graph of calls, inputs in turn; median of blocks, lo and hi: range"
EAGER = "back-to-back calls, inputs in turn; median of blocks"
BATCH = {False: 256, True: 1}  # by whether it is tiny


def record(part: Sink, what: str, form: str, **values: Any) -> Record:
    """A record of an operator, or of the machine, without a figure unless one is given."""
    known = {"metric": "operator_time", "value": None, "unit": "s", "resolution": "none", "method": EAGER, **values}
    return Record(model=what, form=form, device=part.device, time=now(), **known)


def filled(row: Record, timed: Timed) -> Record:
    """The record with the time of its operator."""
    samples = timed.samples
    row = replace(row, value=timed.seconds, n=len(samples), lo=min(samples), hi=max(samples), samples=samples)
    return replace(row, notes=(f"no CUDA graph: {timed.no_graph}",)) if timed.no_graph else replace(row, method=GRAPH)


class Cases:
    """The cases of a part, numbered from 1 on: the run hears of each that is begun; those up to `skip` are over.

    Each is timed by `timer`, and set against its floor by the device's `rates`.
    """

    def __init__(self, part: Sink, timer: Timer, rates: Rates) -> None:
        self.part, self.timer, self.rates, self.number = part, timer, rates, 0

    def begin(self, seconds: float, what: str) -> bool:
        """Whether the next case is to be measured now."""
        self.number += 1
        if self.number <= self.part.skip or not self.part.room(seconds, what):
            return False
        self.part.tell(case=self.number)
        return True

    def attempt(self, what: str, form: str, call: Callable[[int], Any], work: Work, **conditions: Any) -> float | None:
        """Keep the records of a timed call, or of its failure; its seconds.

        A call that fails does not end the part, unless every later one would fail too.
        """
        floor, blank = work.floor(self.rates, conditions["dtype"]), record(self.part, what, form, **conditions)
        try:
            with rounding(conditions["dtype"]):
                timed = self.timer(call, floor)
        except Exception as error:  # Triton raises no narrower class
            text = " ".join(str(error).split())[:200]
            oom = f"{OUT_OF_MEMORY}: " if isinstance(error, torch.OutOfMemoryError) else ""
            self.part.keep([blank.failed(f"{oom}{type(error).__name__}: {text}")])
            if is_sticky(error):
                sys.exit(f"{what}: the device cannot be used any more by this process: {text}")
            return None
        row = filled(blank, timed)
        note = f"floor {floor:.3e} s: {work.bytes:.3e} bytes, {work.macs:.3e} MACs"
        self.part.keep([
            row,
            replace(blank, metric="operator_time_eager", value=timed.eager, notes=row.notes),
            replace(blank, metric="over_floor", value=timed.seconds / floor, unit="ratio", method=row.method,
                    notes=(note,)),
        ])  # fmt: skip
        return timed.seconds


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
    source, target = (torch.ones(length, dtype=torch.uint8, device=device(part)) for _ in range(2))
    timed = timer(lambda i: target.copy_(source))
    bandwidth = 2 * length / timed.seconds
    rows = [filled(record(part, "machine", "copy"), timed)]
    macs = {}
    for dtype, kind in DTYPES.items():
        a, b = (torch.randn(side, side, device=device(part)).to(kind) for _ in range(2))
        with rounding(dtype):
            timed = timer(lambda i, a=a, b=b: a @ b)  # type: ignore[misc]
        macs[dtype] = side**3 / timed.seconds
        rows.append(filled(record(part, "machine", "matrix product", dtype=dtype), timed))
    values = [("copy_bandwidth", "", bandwidth, "bytes/s"), *(("peak_macs", d, v, "MACs/s") for d, v in macs.items())]
    how = "a copy of 1 GiB; products of 8192 x 8192"
    rows += [
        record(part, "machine", "", metric=metric, value=value, unit=unit, dtype=dtype, method=how)
        for metric, dtype, value, unit in values
    ]
    part.keep(rows)
    return Rates(bandwidth, macs)


def device(part: Sink) -> str:
    """Where tensors are made: in a simulation nowhere."""
    return "meta" if simulation.running() else part.device


def contmix_stages() -> dict[str, ContMixShape]:
    """ContMix of OverLoCK-T at 224x224, and its third stage on larger images."""
    larger = {f"stage 3 at {side}": contmix_shapes("overlock_t", side, side)["stage 3"] for side in (288, 384)}
    return contmix_shapes("overlock_t", 224, 224) | larger


def contmix(cases: Cases) -> None:
    """Time every backend at the sizes of OverLoCK-T's stages, and `fused` in its other launches too."""
    from overlock.contmix import fused

    tiny = cases.part.tiny
    stages = {"tiny": ContMixShape(1, 1, 7, 7, 4, 8, 7)} if tiny else contmix_stages()
    dtypes = ["float32"] if tiny else list(DTYPES)
    names = ("tiled", "reference") if tiny else ("fused", "tiled", "reference")
    for batch, dtype, stage in itertools.product([1] if tiny else [256, 16, 1], dtypes, stages):
        shape, what = replace(stages[stage], batch=batch), f"contmix {stage}"
        timed = _ContMixTimes(cases, shape, dtype)
        for name in names:
            if name == "reference" and (batch > 16 and dtype != "bfloat16"):
                continue
            timed(what, name, backward=False)
            if name != "reference":  # autograd of the definition, which runs the forward too
                timed(what, name, backward=True)
        if "fused" in names and batch == 256 and dtype == "bfloat16":
            for kind, launches in _other_launches(shape.height, shape.kernel).items():
                before = fused.launches[kind]
                for launch in launches:
                    fused.launches[kind] = launch
                    timed(f"{what}, {launch}", "fused", backward=kind == "short backward")
                fused.launches[kind] = before


class _ContMixTimes:
    """Times ContMix of one shape and dtype, whose inputs are made once."""

    def __init__(self, cases: Cases, shape: ContMixShape, dtype: str) -> None:
        self.cases, self.shape, self.dtype = cases, shape, dtype
        self.sets: list[Inputs] = []

    def __call__(self, what: str, name: str, backward: bool) -> None:
        from overlock.contmix import BACKENDS

        shape, part, form = self.shape, self.cases.part, "backward" if backward else "forward"
        if not self.cases.begin(2.0, f"{what} {form} by {name}, {self.dtype} batch {shape.batch}"):
            return
        if not self.sets and not simulation.running():
            seeds = range(1 if part.tiny else SETS)
            self.sets += [shape.inputs(DTYPES[self.dtype], part.device, seed) for seed in seeds]
        work = contmix_work(shape.batch, shape.height, shape.kernel, shape.heads, 16, self.dtype, backward)
        self.cases.attempt(
            what, form, _call(BACKENDS[name], backward, self.sets), work, backend=name, resolution=str(shape.height),
            batch=shape.batch, dtype=self.dtype, layout="channels_last",
        )  # fmt: skip


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


def by_torch(x: Tensor, weight: Tensor, grad: Tensor | None, cudnn: bool = True) -> Any:
    """PyTorch's convolution, by cuDNN or without it; with `grad` its gradients, under the same flags as the forward:
    what runs backward asks for them again."""
    tf32 = torch.backends.cudnn.allow_tf32
    with torch.backends.cudnn.flags(enabled=cudnn, benchmark=CUDNN_BENCHMARK, allow_tf32=tf32):
        return _run(lambda: F.conv2d(x, weight, None, 1, weight.shape[-1] // 2, 1, len(weight)), x, weight, grad)


def by_cudnn(x: Tensor, weight: Tensor, grad: Tensor | None) -> Any:
    """cuDNN's own operator, which has no gradient here."""
    padding, tf32 = [weight.shape[-1] // 2] * 2, torch.backends.cudnn.allow_tf32
    with torch.no_grad():
        return torch.ops.aten.cudnn_convolution(
            x, weight, padding, [1, 1], [1, 1], len(weight), CUDNN_BENCHMARK, False, tf32
        )


def by_triton(x: Tensor, weight: Tensor, grad: Tensor | None) -> Any:
    """What `overlock.depthwise.dispatch` takes as `triton`: maps as they are, where that can be."""
    from overlock.depthwise import last

    if grad is None and last.why_not(x, weight) is None:
        with torch.no_grad():
            return last.depthwise_last(x, weight, None)
    return by_padded(x, weight, grad)


def by_padded(x: Tensor, weight: Tensor, grad: Tensor | None) -> Any:
    """The kernels of `overlock.depthwise.triton`, which copy maps into padded rows."""
    from overlock.depthwise.triton import depthwise as convolve

    return _run(lambda: convolve(x, weight), x, weight, grad)


def _run(forward: Callable[[], Tensor], x: Tensor, weight: Tensor, grad: Tensor | None) -> Any:
    """The output alone, or the gradients too."""
    if grad is None:
        with torch.no_grad():
            return forward()
    return torch.autograd.grad(forward(), [x, weight], grad)


PATHS: dict[str, Callable[[Tensor, Tensor, Tensor | None], Any]] = {
    "torch": by_torch,
    "triton": by_triton,
    "padded": by_padded,
    "cudnn": by_cudnn,
    "native": lambda x, weight, grad: by_torch(x, weight, grad, cudnn=False),
}
"""Ways to run a large depthwise convolution."""

WINNING = ("torch", "triton", "padded")
"""Those that `overlock.depthwise.dispatch` can take."""


def depthwise(cases: Cases) -> None:
    """Time large depthwise convolutions by PyTorch's choice, by cuDNN (forward only), by PyTorch's own kernels and by
    Triton's two. A file keeps which of PyTorch's choice and Triton's is the fastest."""
    from overlock.depthwise.dispatch import Case

    part, winners = cases.part, []
    shapes = {"tiny": DepthwiseShape(2, 7, 7, 5)} if part.tiny else depthwise_shapes("overlock_t", 224, 224)
    dtypes = ["float32"] if part.tiny else ["bfloat16", "float16", "tf32", "float32"]
    paths = ("torch", "native") if part.tiny else tuple(PATHS)
    batch = BATCH[part.tiny]
    for dtype, layout, (stage, shape) in itertools.product(dtypes, LAYOUTS, shapes.items()):
        kind, channels, side, kernel = DTYPES[dtype], shape.channels, shape.height, shape.kernel
        size = (batch, channels, side, side)
        x = torch.randn(size, device=device(part)).to(kind).contiguous(memory_format=LAYOUTS[layout])
        weight = torch.randn(channels, 1, kernel, kernel, device=device(part)).to(kind)
        grad = torch.randn_like(x)
        x.requires_grad_()
        weight.requires_grad_()
        conditions = {"resolution": str(side), "batch": batch, "dtype": dtype, "layout": layout}
        forward = depthwise_work(batch, channels, side, kernel, dtype)
        back = depthwise_work(batch, channels, side, kernel, dtype, backward=True)
        for wanted, work in ((None, forward), (grad, Work(forward.bytes + back.bytes, forward.macs + back.macs))):
            form = "forward" if wanted is None else "forward and backward"
            times: dict[str, float] = {}
            for path in paths:
                if wanted is not None and path == "cudnn":
                    continue
                if path == "padded" and (wanted is not None or layout != "channels_last"):  # as `triton`
                    continue
                what = f"depthwise {kernel}x{kernel} {stage}"
                if not cases.begin(1.5, f"{what} {form} by {path}, {dtype} {layout}"):
                    continue

                def call(i: int, run: Any = PATHS[path], wanted: Tensor | None = wanted) -> Any:
                    return run(x, weight, wanted)  # noqa: B023 (called before the next case)

                seconds = cases.attempt(what, form, call, work, backend=path, **conditions)
                if seconds is not None:
                    times[path] = seconds
            if wanted is None and layout == "channels_last" and dtype == "bfloat16":
                _other_last_launches(cases, x, weight, work, what, conditions)
            if dtype == "tf32" or "torch" not in times:  # a winner holds for float32 as it is, without TF32
                continue
            winner = min(WINNING, key=lambda path: times.get(path, math.inf))
            winners.append({"case": Case.of(x, kernel, wanted is not None), "winner": winner, "seconds": times})
            part.tell(file=WINNERS, text=json.dumps(winners, indent=1))


def _other_last_launches(
    cases: Cases, x: Tensor, weight: Tensor, work: Work, what: str, conditions: dict[str, Any]
) -> None:
    """Time the kernel that copies nothing in its other launches; they win nothing, a change of the default would."""
    from overlock.depthwise import last

    before = last.launch
    for launch in last.LAUNCHES[1:]:
        last.launch, named = launch, f"{what}, {launch}"
        if cases.begin(1.5, f"{named} forward by triton, {conditions['dtype']} {conditions['layout']}"):
            cases.attempt(named, "forward", lambda i: by_triton(x, weight, None), work, backend="triton", **conditions)
    last.launch = before


def main(argv: Sequence[str] | None = None) -> int:
    p = arguments("bench.gpu.operators")
    p.add_argument("--of", choices=("contmix", "depthwise"), required=True)
    args = p.parse_args(argv)
    part = sink(args)
    timer = Timer(part.device, part.tiny, 1 if part.tiny else SETS)
    (contmix if args.of == "contmix" else depthwise)(Cases(part, timer, peaks(part, timer)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
