"""One process of one side of an interleaved measurement: `python -m bench.engine.replicate`.

It reads commands on stdin, a line of JSON each, and answers each with a line of JSON on what was its stdout:
`prepare` (load the model), `warm` (first call, layout, outputs, warm-up, canary), `turn` (a block), `finish` (canary
again, what ran). An answer is the result, or `{"error": ..., "oom": ...}`, after which the process is of no more use.
It ends when stdin is closed. `bench.engine.interleaved` is the other end.
"""

from __future__ import annotations

import gc
import json
import os
import queue
import sys
import threading
import time
import traceback
from dataclasses import asdict
from typing import Any

from bench.cli import BadInput
from bench.engine.side import LATENCY, TRAINING, Plan, Side


def main() -> None:
    """Answer commands until stdin is closed."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints stays out of the answers
    commands: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_listen, args=(commands,), daemon=True).start()
    replicate = Replicate()
    while True:
        command = commands.get()
        try:
            answer = getattr(replicate, command.pop("do"))(**command)
        except BadInput as error:
            answer = {"bad_input": str(error)}
        except Exception as error:  # a model that fails is a result of its side, not the end of the run
            from bench.engine.speed import is_out_of_memory

            traceback.print_exc()
            text = " ".join(str(error).split())[:300]
            answer = {"error": f"{type(error).__name__}: {text}", "oom": is_out_of_memory(error)}
        channel.write(json.dumps(answer) + "\n")
        channel.flush()


def _listen(commands: queue.Queue[dict[str, Any]]) -> None:
    for line in sys.stdin:
        commands.put(json.loads(line))
    os._exit(1)  # the parent has closed it, or is gone: also in the middle of a call


class Replicate:
    """The side under measurement in this process, step by step."""

    def prepare(self, side: dict[str, Any], kind: str, plan: dict[str, Any]) -> dict[str, Any]:
        """Load the model and draw its inputs. Sides may do this at the same time: nothing is timed."""
        import torch

        from bench.engine import speed, subject
        from bench.engine.check import import_modules
        from bench.machine import canary

        self.side, self.kind, self.plan = Side.from_dict(side), kind, Plan(**plan)
        settings = self.side.settings
        torch.set_num_threads(settings.threads)
        import_modules(settings.imports)
        if kind == TRAINING and settings.compile == "cudagraph":
            raise BadInput("--compile cudagraph replays inference: leave the metric training out")
        batch = 1 if kind == LATENCY else settings.batch
        assert isinstance(batch, int), "the batch is decided before a process is started"
        self.batch = batch
        self.subject = subject.prepare(self.side, batch, training=kind == TRAINING)
        self.work = speed.Training(self.subject) if kind == TRAINING else speed.Inference(self.subject)
        self.canary = canary.Canary(self.subject.device)
        gc.collect()
        gc.freeze()  # what was made so far stays: the collector need not look through it while we time
        return {"sources": subject.sources()}

    def warm(self, check: bool = True) -> dict[str, Any]:
        """First call, compilation, layout, a look at the outputs, calls until they are steady, and the canary."""
        from bench.engine import speed, subject

        settings = self.side.settings
        chosen_here = settings.layout == "auto"
        if chosen_here:
            speed.faster_layout(self.subject, type(self.work))
        checked = subject.check(self.subject) if check and self.kind != TRAINING else None
        begin = time.perf_counter()
        subject.compiled(self.subject, settings.compile)
        built = time.perf_counter() - begin
        first = self.work.first_call()
        limit = self.plan.warmup * (speed.MORE_WARMUP if self.kind == TRAINING else 1)
        warm = speed.warm_up(self.work, limit)
        backend = checked.backend if checked else ""
        problems = [*self.work.problems(), *(checked.problems if checked else ())]
        if backend and settings.backend not in ("auto", backend):
            problems.append(f"ContMix ran {backend}, not {settings.backend} as asked for")
        self.seconds, self.position = warm.seconds, 0
        self.before = self.canary.read()
        return {
            "cold": None if chosen_here or checked else first,  # anything that ran before was the first call
            "compile": None if settings.compile == "none" else max(0.0, built + first - warm.seconds),
            "steady": warm.steady,
            "limit": limit,
            "calls": warm.calls,
            "seconds": warm.seconds,
            "layout": self.subject.layout,
            "backend": backend,
            "problems": problems,
            "weights": subject.weights_label_of(self.side),
            "batch": self.batch,
        }

    def turn(self) -> dict[str, Any]:
        """One block: seconds a call (of each call for latency), and what the host took to hand one over."""
        from bench.engine import speed

        result = speed.block(self.work, self.seconds, self.plan.block, each=self.kind == LATENCY, start=self.position)
        self.position += result.calls
        return asdict(result)

    def finish(self, profile: bool = False) -> dict[str, Any]:
        """The canary again, and, where asked for, the operators that ran."""
        moved, what = self.before.moved(after := self.canary.read())
        answer = {
            "canary": {
                "before": asdict(self.before),
                "after": asdict(after),
                "moved": moved,
                "work": what,
                "size": self.canary.size,
            },
            "launch_bound": self.work.launch_bound(self.seconds),
        }
        if profile:
            from bench.profile.paths import ran

            answer["ran"] = ran(self.work)
        return answer


if __name__ == "__main__":
    main()
