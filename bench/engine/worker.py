"""The process that measures: `python -m bench.engine.worker`, or forked by `bench.engine.server`.

It reads commands on stdin, a line of JSON each (`{"command": name, ...arguments}`), and answers each with a line of
JSON on what was its stdout. A command is a method of `Commands`. An answer is its result, `{"error": ..., "oom": ...}`
or `{"bad_input": ...}`. The process ends when stdin is closed, also in the middle of a command.
"""

from __future__ import annotations

import gc
import json
import logging
import math
import os
import queue
import sys
import threading
import time
import traceback
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from bench.cli import BadInput
from bench.engine.plan import Plan
from bench.engine.request import TIMED, Request
from bench.metrics import LARGEST_BATCH, LATENCY, MEMORY, TRAINING

if TYPE_CHECKING:
    from bench.engine.subject import Checked


def main() -> None:
    """Answer commands until stdin is closed."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints stays out of the answers
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s", stream=sys.stderr)
    waiting: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_listen, args=(waiting,), daemon=True).start()
    commands = Commands()
    while True:
        channel.write(json.dumps(answer(commands, **waiting.get())) + "\n")
        channel.flush()


def _listen(waiting: queue.Queue[dict[str, Any]]) -> None:
    for line in sys.stdin:
        waiting.put(json.loads(line))
    os._exit(1)  # the parent has closed it, or is gone


def answer(commands: Commands, command: str, **arguments: Any) -> dict[str, Any]:
    """The result of one command, or what went wrong."""
    try:
        result: dict[str, Any] = getattr(commands, command)(**arguments)
        return result
    except BadInput as error:
        return {"bad_input": str(error)}
    except Exception as error:  # a model that fails is a result of its row, not the end of the run
        from bench.engine.speed import is_out_of_memory

        traceback.print_exc()
        text = " ".join(str(error).split())[:300]
        return {"error": f"{type(error).__name__}: {text}", "oom": is_out_of_memory(error)}


class Commands:
    """What a worker can do. `check` and `count` need nothing before them, all others `prepare`."""

    def check(self, **asked: Any) -> dict[str, Any]:
        """See `bench.engine.check.check`."""
        from bench.engine.check import check

        return check(**asked)

    def count(self, request: dict[str, Any], metric: str) -> dict[str, Any]:
        """Count one metric of a request's model."""
        from bench.engine.check import import_modules
        from bench.engine.tasks import task_of

        asked = Request.from_dict(request)
        import_modules(asked.settings.imports)
        gc.freeze()  # what the imports made stays: the collector need not look through it while we count
        return {"figures": [asdict(figure) for figure in task_of(asked.task).count(asked, metric)]}

    def prepare(self, request: dict[str, Any]) -> dict[str, Any]:
        """Load a request's model and draw its inputs. Processes may do this side by side: nothing is measured."""
        import torch

        from bench.engine import speed, subject
        from bench.engine.check import import_modules
        from bench.machine import allocator, canary

        self.request = Request.from_dict(request)
        thresholds = allocator.MAPPING if self.request.kind == MEMORY else allocator.STEADY
        self.allocator = allocator.settle(thresholds if self.request.kind in (*TIMED, MEMORY) else {})
        settings, training = self.request.settings, self.request.kind == TRAINING
        torch.set_num_threads(settings.threads)
        import_modules(settings.imports)
        if training and settings.compile == "cudagraph":
            raise BadInput("--compile cudagraph replays inference: leave the metric training out")
        self.subject = subject.prepare(self.request)
        self.work = speed.Training(self.subject) if training else speed.Inference(self.subject)
        if self.request.kind in TIMED:
            self.canary = canary.Canary(self.subject.device)
        gc.collect()
        gc.freeze()  # what was made so far stays: the collector need not look through it while we measure
        return {"sources": subject.sources()}

    def _settle(self, check: bool = True) -> dict[str, Any]:
        """Choose the layout where that is open, look at the outputs, and say under what conditions the model runs."""
        from bench.engine import subject

        self._lay_out()
        self.checked = subject.check(self.subject) if check else subject.Checked()
        return self._conditions(self.checked)

    def _lay_out(self) -> None:
        from bench.engine import speed

        if self.request.settings.layout == "auto":
            speed.faster_layout(self.subject, type(self.work))

    def _conditions(self, checked: Checked) -> dict[str, Any]:
        from bench.loading import weights_label

        settings = self.request.settings
        problems = list(checked.problems)
        if checked.backend and settings.backend not in ("auto", checked.backend):
            problems.append(f"ContMix ran {checked.backend}, not {settings.backend} as asked for")
        weights = weights_label(self.request.checkpoint, settings.seed)
        return {"layout": self.subject.layout, "backend": checked.backend, "weights": weights, "problems": problems}

    def memory(self) -> dict[str, Any]:
        """Memory of the loaded model and of a call."""
        from bench.engine import memory, subject
        from overlock.contmix import BackendsSeen

        self._lay_out()
        with BackendsSeen() as seen:
            figures, outputs = memory.measure(self.subject, self.allocator)
        conditions = self._conditions(subject.Checked(subject.check_outputs(*outputs[:2]), seen.label))
        return {**conditions, "figures": figures}

    def largest_batch(self) -> dict[str, Any]:
        """The largest batch that fits in memory."""
        from bench.engine import fit

        conditions = self._settle()
        batch, how = fit.largest_batch(self.subject, self.request.resolution, self.request.settings.memory_budget)
        return {**conditions, "figures": [{"metric": LARGEST_BATCH, "value": batch, "method": how}]}

    def breakdown(self) -> dict[str, Any]:
        """Time, MACs, parameters and activations of each kind of operator and each stage."""
        from bench.profile.breakdown import CALLS, figures
        from bench.profile.operators import operators

        conditions = self._settle()
        return {**conditions, "figures": list(figures(operators(self.subject, CALLS), self.request.images))}

    def warm(self, plan: dict[str, Any], check: bool = True) -> dict[str, Any]:
        """First call, compilation, layout, a look at the outputs, calls until they are steady, and the canary."""
        from bench.engine import runtimes, speed, subject

        self.plan = Plan(**plan)
        settings, training = self.request.settings, self.request.kind == TRAINING
        check = check and not training
        conditions = self._settle(check)
        begin = time.perf_counter()
        loaded = served = settings.compile in runtimes.PACKAGES
        if served:
            loaded, problems = runtimes.serve(self.subject, self.request)
            conditions["problems"] += problems
            conditions["backend"] = conditions["backend"] and "exported"
        else:
            subject.compiled(self.subject, settings.compile)
        built = time.perf_counter() - begin
        called_before = check or settings.layout == "auto"
        eager = settings.compile == "none"
        first = math.nan if called_before and eager else self.work.first_call()
        limit = self.plan.warmup * (speed.MORE_WARMUP if training else 1)
        before = math.inf if training or not eager else self.checked.seconds if check else first
        warm = speed.warm_up(self.work.seconds, limit, before)
        self.seconds, self.position = warm.seconds, 0
        self.before = self.canary.read()
        return {
            **conditions,
            "problems": [*self.work.problems(), *conditions["problems"]],
            "cold": None if called_before else first,
            "compile": None if loaded or settings.compile == "none" else max(0.0, built + first - warm.seconds),
            "steady": warm.steady,
            "limit": limit,
            "calls": warm.calls,
            "seconds": warm.seconds,
            "batch": self.request.images,
        }

    def turn(self) -> dict[str, Any]:
        """One block: seconds a call (of each call for latency), and what the host took to hand one over."""
        from bench.engine import speed

        each = self.request.kind == LATENCY
        result = speed.block(self.work, self.seconds, self.plan.block, each=each, start=self.position)
        self.position += result.calls
        return asdict(result)

    def finish(self, profile: bool = False) -> dict[str, Any]:
        """The canary again, and, where asked for, the operators that ran."""
        moved, what = self.before.moved(after := self.canary.read())
        result = {
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

            result["ran"] = ran(self.work)
        return result


if __name__ == "__main__":
    main()
