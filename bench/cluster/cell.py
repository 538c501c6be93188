"""A cell's folder: what was tried, how it ended, and its records. Imports no torch.

cells/<name>/attempts.jsonl   a line for each attempt: host, job, time; written when it begins
             end.json         how the last attempt ended; a job that was killed leaves none
             log.txt          what the command said, of all attempts
             records/         as under results/: <machine>/records.csv and its environments
             records.json     the same of a command that keeps its records at the end
             weights.pth      what a command trains
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.cli import BAD_INPUT, BadInput, write_whole

ATTEMPTS, END, LOG, RECORDS, RECORDS_JSON, JOB, WEIGHTS, RUN = (
    "attempts.jsonl", "end.json", "log.txt", "records", "records.json", "job.json", "weights.pth", "run",
)  # fmt: skip
DONE, FAILED, STOPPED, OPEN = "done", "failed", "stopped", "open"
"""Ended as it should; refused, which another attempt will not change; ended by a signal; not ended."""
CRASHED = 1
"""The exit code of Python's tracebacks, and of torchrun whatever its processes' was; no command of a cell means it."""


@dataclass(frozen=True)
class State:
    """What is known of a cell."""

    attempts: Sequence[Mapping[str, Any]]  # those that were begun
    end: Mapping[str, Any] | None

    @property
    def word(self) -> str:
        if self.end is None:
            return OPEN
        code = self.end.get("code", -1)
        if not isinstance(code, int) or code < 0 or code >= 128:
            return STOPPED
        return FAILED if code in (CRASHED, BAD_INPUT) else DONE


def state(folder: Path) -> State:
    """What a cell's folder says; a file that a full disk cut short, or another program's, says nothing."""
    path = folder / ATTEMPTS
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    return State([line for text in lines if isinstance(line := _parsed(text), dict)], _object(folder / END))


def begin(folder: Path, what: Mapping[str, Any]) -> None:
    """Write down that an attempt begins; how the one before it ended is void."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / END).unlink(missing_ok=True)
    with (folder / ATTEMPTS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(dict(what)) + "\n")


def end(folder: Path, what: Mapping[str, Any]) -> None:
    """Write down how an attempt ended, as a whole file or not at all."""
    write_whole(folder / END, json.dumps(dict(what)) + "\n")


def job_of(folder: Path) -> str:
    """The job that was last submitted for a cell; empty if none was."""
    known = _object(folder / JOB)
    return str(known.get("id", "")) if known else ""


def submitted(folder: Path, job: str, executor: str) -> None:
    """Write down the job that a cell waits for."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / JOB, json.dumps({"id": job, "executor": executor}) + "\n")


def merge(folders: Sequence[Path], results: Path) -> int:
    """Bring the records of cells into a folder of results; returns how many were not there yet.

    Raises:
        BadInput: if they cannot be read, or written there.
    """
    from bench.files import read_text
    from bench.records import store
    from bench.records.record import from_json

    added = store.merge([folder / RECORDS for folder in folders], results)
    for path in (folder / RECORDS_JSON for folder in folders):
        if path.is_file():
            try:
                environment, records = from_json(read_text(path, store.MEND))
            except ValueError as error:
                raise BadInput(f"{path}: {error}: {store.MEND}") from error
            added += store.add_missing(records, {record.run: environment for record in records}, results)
    return added


def _object(path: Path) -> Mapping[str, Any] | None:
    try:
        value = _parsed(path.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None
    return value if isinstance(value, dict) else None


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
