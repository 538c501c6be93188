"""`python -m bench.validation.peers`: one model timed by this suite, by timm and by PyTorch.

In each of several fresh processes the suite's blocks, timm's `benchmark.py` (the mean of steps that are each waited
for) and `torch.utils.benchmark` (the median of its Timer) take turns on one model, batch and dtype. The harness's own
share is the time of a block of calls to a model that does nothing. It prints each peer's time relative to ours with the
95 % interval over processes. On a CPU all three should agree; on CUDA, waiting for each step adds launching time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from statistics import median
from typing import TYPE_CHECKING

from bench import cli
from bench.cli import BadInput, Parser
from bench.engine.process import environment
from bench.engine.request import Request, Settings
from bench.engine.statistics import Ratio, ratio_of_rounds
from bench.machine.allocator import STEADY

if TYPE_CHECKING:
    from bench.engine.speed import Inference

OURS, TIMM, TORCH = "bench.engine.speed", "timm's benchmark.py", "torch.utils.benchmark"
HARNESS = "harness"
TURNS = 4


def parser() -> Parser:
    p = Parser(prog="bench.validation.peers", description=__doc__)
    p.add_argument("--model", default="convnext_t", metavar="MODEL")
    p.add_argument("--form", choices=("train", "deploy"), default="deploy")
    p.add_argument("--resolution", type=cli.resolution, default=(224, 224), metavar="SIZE")
    p.add_argument("--batch-size", type=cli.positive_or_auto, default="auto", metavar="N")
    p.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    p.add_argument("--device", default="cpu", type=cli.device)
    p.add_argument("--threads", type=cli.positive, metavar="N")
    p.add_argument("--rounds", type=cli.positive, default=6, help="fresh processes")
    p.add_argument("--seconds", type=cli.number, default=1.0, help="of each method in each of its turns, about")
    p.add_argument("--child", help=argparse.SUPPRESS)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if args.child:
        request = json.loads(args.child)
        print(json.dumps(in_this_process(Request.from_dict(request["side"]), request["seconds"])))
        return cli.OK
    from bench.machine.environment import physical_cores

    settings = Settings(
        device=args.device,
        dtype=args.dtype,
        layout="channels_last",
        batch=args.batch_size,
        threads=args.threads or physical_cores(),
    ).decided(args.resolution)
    side = Request(model=args.model, form=args.form, resolution=args.resolution, settings=settings)
    batch = side.images
    rounds = [in_fresh_process(side, args.seconds) for _ in range(args.rounds)]
    print(f"{args.model} {args.form} {cli.resolution_name(args.resolution)} {args.dtype} batch {batch}, {args.device}:")
    ours = median(seconds[OURS] for seconds in rounds)
    print(f"  {OURS}: {1e3 * ours:.2f} ms a call, {batch / ours:.2f} images/s")
    own = median(seconds[HARNESS] for seconds in rounds)
    print(f"  the harness's own share: {1e6 * own:.2f} us a call, {own / ours:.4%}")
    for peer, ratio in compared(rounds).items():
        print(
            f"  {peer}: {ratio.value:.4f} of that, 95 % interval {ratio.lo:.4f} to {ratio.hi:.4f}, {ratio.n} processes"
        )
    return cli.OK


def compared(rounds: Sequence[dict[str, float]]) -> dict[str, Ratio]:
    """Each peer's seconds a call over ours, from the processes' medians."""
    return {peer: ratio_of_rounds([seconds[peer] / seconds[OURS] for seconds in rounds]) for peer in (TIMM, TORCH)}


def in_fresh_process(side: Request, seconds: float) -> dict[str, float]:
    """Seconds a call by each method, all in one new process."""
    request = json.dumps({"side": asdict(side), "seconds": seconds})
    command = [sys.executable, "-m", "bench.validation.peers", "--child", request]
    env = {name: str(value) for name, value in STEADY.items()} | environment(side.settings.threads)
    done = subprocess.run(command, capture_output=True, errors="replace", check=False, env=env)
    if done.returncode:
        raise BadInput(f"{side.name} cannot be timed: {cli.last_line(done.stderr)}")
    by_method: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return by_method


def in_this_process(side: Request, seconds: float) -> dict[str, float]:
    """Median over turns of each method's seconds a call; the order of the methods turns round each time."""
    import torch

    from bench.engine import speed, subject

    torch.set_num_threads(side.settings.threads)
    work = speed.Inference(subject.prepare(side))
    one = speed.warm_up(work.seconds, 3.0).seconds
    methods: dict[str, Callable[[], float]] = {
        OURS: lambda: speed.block(work, one, seconds, each=False, start=0).seconds,
        TIMM: lambda: timm_method(work, max(2, round(seconds / one))),
        TORCH: lambda: torch_method(work, seconds),
    }
    times: dict[str, list[float]] = {name: [] for name in methods}
    for turn in range(TURNS):
        for name in list(methods) if turn % 2 == 0 else list(reversed(methods)):
            times[name].append(methods[name]())
    nothing = speed.Inference(replace(work.subject, model=torch.nn.Identity()))
    times[HARNESS] = [speed.block(nothing, 1e-4, 0.1, each=False, start=0).seconds]
    return {name: median(values) for name, values in times.items()}


def timm_method(work: Inference, steps: int) -> float:
    """As timm's InferenceBenchmarkRunner.run: the mean of steps that are each synchronised and timed."""
    import torch

    from bench.machine.clock import synchronise

    device, total = work.subject.device, 0.0
    with torch.no_grad():
        for i in range(steps):
            synchronise(device)
            begin = time.perf_counter()
            work.subject.call(i)
            synchronise(device)
            total += time.perf_counter() - begin
    return total / steps


def torch_method(work: Inference, seconds: float) -> float:
    """As torch.utils.benchmark's Timer does it: the median of blocks that its blocked_autorange chooses."""
    import torch
    from torch.utils import benchmark

    timer = benchmark.Timer("call(0)", globals={"call": work.call}, num_threads=torch.get_num_threads())
    return float(timer.blocked_autorange(min_run_time=seconds).median)


if __name__ == "__main__":
    cli.run("validation.peers", main)
