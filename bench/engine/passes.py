"""What is not timed: counting, and passes (memory, the largest batch, a breakdown), in processes. Imports no torch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from bench import metrics
from bench.cli import BadInput
from bench.engine.process import Failed, Process
from bench.engine.request import Request, Settings
from bench.machine.environment import now
from bench.records.record import Record, from_dict

Count = tuple[Request, str]  # and the metric to count
Known = tuple[Request, list[Record]]


def measured(requests: Sequence[Request]) -> Iterator[Known]:
    """The records of each request, measured in a fresh process.

    The processes load side by side, and then measure one after another.
    """
    with ExitStack() as stack:
        processes = [stack.enter_context(Process(r.settings, r)) for r in requests]
        for process, request in zip(processes, requests, strict=True):
            process.ask("prepare", request=request.to_dict())
        prepared = [_answer(process) for process in processes]
        for process, request, answer in zip(processes, requests, prepared, strict=True):
            if not isinstance(answer, Failed):
                process.ask(request.kind)
                answer = _answer(process)
            process.end()
            yield request, _records(request, metrics.of_kind(request.kind)[0], answer)


def _answer(process: Process) -> dict[str, Any] | Failed:
    try:
        return process.answer()
    except Failed as error:
        return error


@contextmanager
def counting(
    shares: Sequence[Sequence[Count]], settings: Settings, asked: Mapping[str, Any]
) -> Iterator[tuple[dict[str, Any], Iterator[Known]]]:
    """Each share of the counts in a process of its own, side by side, of which the first checks the input before.

    Gives the answer to the check, which `asked` has the arguments of (`bench.engine.check.check`), and the records of
    each count as they come. What a process was counting when it died fails, and a fresh process takes the rest.

    Raises:
        BadInput: if the input is bad, or no process can start.
    """
    running = [_Share(share, settings, {} if i else asked) for i, share in enumerate(shares)]
    try:
        try:
            answer = running[0].process.answer()
        except Failed as error:
            named = " ".join(settings.imports)
            whose = f"; does importing {named} end it (--import)?" if named and error.ended else ""
            raise BadInput(f"cannot start measuring: {error.reason}{whose}") from error
        for share in running:
            if not share.left:  # nothing is to be counted: no process waits beside what is timed
                share.process.end()
        yield answer, _counted(running)
    finally:
        for share in running:
            share.process.end()


def check(settings: Settings, asked: Mapping[str, Any]) -> dict[str, Any]:
    """`bench.engine.check.check` in a process of its own: the device chosen, and the environment.

    Raises:
        BadInput: if the input is bad, or no process can start.
    """
    with counting([[]], settings, asked) as (answer, _):
        return answer


class _Share:
    """The counts of one process, which are all asked for at once: it never waits for the next one."""

    def __init__(self, counts: Sequence[Count], settings: Settings, asked: Mapping[str, Any]) -> None:
        self.left = deque(counts)
        self._settings = settings
        self._start(asked)

    def _start(self, asked: Mapping[str, Any]) -> None:
        self.process = Process(self._settings)
        if asked:
            self.process.ask("check", **asked)
        for request, metric in self.left:
            self.process.ask("count", request=request.to_dict(), metric=metric)

    def poll(self, seconds: float) -> Known | None:
        """The next count, if it comes within `seconds`."""
        answer: dict[str, Any] | Failed | None
        try:
            answer = self.process.poll(seconds)
        except Failed as error:
            answer = error
        if answer is None:
            return None
        request, metric = self.left.popleft()
        if isinstance(answer, Failed) and answer.ended and self.left:
            self.process.end()
            self._start({})
        return request, _records(request, metric, answer)


def _counted(running: Sequence[_Share]) -> Iterator[Known]:
    while waiting := [share for share in running if share.left]:
        for share in waiting:
            known = share.poll(0.1 / len(waiting))
            if not share.left:
                share.process.end()
            if known is not None:
                yield known


def _records(request: Request, metric: str, answer: Mapping[str, Any] | Failed) -> list[Record]:
    """What a process answered, as records: one for each figure, or one that says why there is none."""
    template = replace(request.record(metric), time=now())
    if isinstance(answer, Failed):
        return [template.failed(answer.reason)]
    conditions = {name: answer[name] for name in ("layout", "backend", "weights") if name in answer}
    problems = answer.get("problems", ())
    known = template.to_dict() | conditions | {"valid": not problems, "reasons": problems}
    return [from_dict({**known, "unit": _unit(figure["metric"]), **figure}) for figure in answer["figures"]]


def _unit(name: str) -> str:
    metric = metrics.find(name)
    assert metric is not None, f"bench.metrics has no {name}"
    return metric.unit
