"""Who runs the jobs: this machine or Slurm, both through submitit. Imports no torch.

What a job's state is, is asked of Slurm's queue or of the process, and not of an accounting database, which many small
clusters do not have.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from bench.cli import BadInput, need
from bench.cluster.job import Job

LOCAL, SLURM = "local", "slurm"
WAITING, RUNNING, GONE = "waiting", "running", "gone"
"""Of a job: not begun, or begun; ended in whatever way."""
ENDED = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
         "REVOKED", "TIMEOUT")  # fmt: skip
BEGUN = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT")
TIMEOUTS = 10
"""How often a job that runs out of time is begun again by Slurm: each time it goes on where it was."""
SECONDS = 60.0
"""That Slurm may take to answer."""


class Executor(Protocol):
    """Where jobs run. `most` is how many may be submitted at a time."""

    name: str
    most: int

    def submit(self, jobs: Sequence[Job]) -> list[str]:
        """Submit jobs; returns their names."""
        ...

    def states(self, jobs: Sequence[str]) -> dict[str, str]:
        """The state of each job."""
        ...

    def cancel(self, jobs: Sequence[str]) -> None: ...


def executor(name: str, folder: Path, asked: Mapping[str, Any], at_once: int, gpus: Sequence[int]) -> Executor:
    """The executor of a name.

    Raises:
        BadInput: if it cannot be had here, or knows no such parameter.
    """
    need("this", "cluster", "submitit")
    if name == SLURM:
        missing = [tool for tool in ("sbatch", "squeue", "scancel") if shutil.which(tool) is None]
        if missing:
            raise BadInput(f"--executor slurm: there is no {', '.join(missing)} here: run it where Slurm's tools are")
        return Slurm(folder, asked, at_once)
    return Local(folder, asked, at_once, gpus)


def _made(cluster: str, folder: Path, parameters: Mapping[str, Any], **more: Any) -> Any:
    """submitit's executor with its parameters.

    Raises:
        BadInput: for a parameter that it does not know, naming it, or a value of another type.
    """
    import submitit

    try:
        made = submitit.AutoExecutor(folder, cluster=cluster, **more)
        made.update_parameters(**parameters)
    except (NameError, TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise BadInput(f"[executor]: {' '.join(str(error).split())}") from error
    except OSError as error:
        raise BadInput(f"cannot keep jobs in {folder}: {error.strerror}; give another --folder") from error
    return made


class Slurm:
    """Slurm. A job has its node to itself, unless the grid says otherwise, and is begun again when it is preempted."""

    name = SLURM

    def __init__(self, folder: Path, asked: Mapping[str, Any], at_once: int) -> None:
        usual: dict[str, Any] = {"timeout_min": 60, "tasks_per_node": 1, "name": "overlock-bench"}
        if not asked.keys() & {"gpus_per_node", "slurm_gres", "slurm_exclusive"}:
            usual["slurm_exclusive"] = True
        if at_once:
            usual["slurm_array_parallelism"] = at_once
        given = {name: value for name, value in {**usual, **asked}.items() if value is not False}  # a flag not given
        self._executor = _made(SLURM, folder, given, slurm_max_num_timeout=TIMEOUTS)
        self.most = 1000  # of one array; Slurm's own limit is 1001 by default

    def submit(self, jobs: Sequence[Job]) -> list[str]:
        from submitit.core.utils import FailedJobError

        try:
            with self._executor.batch():
                submitted = [self._executor.submit(job) for job in jobs]
        except (FailedJobError, subprocess.CalledProcessError) as error:
            raise BadInput(f"Slurm takes no job: {' '.join(str(error).split())[-400:]}") from error
        return [job.job_id for job in submitted]

    def states(self, jobs: Sequence[str]) -> dict[str, str]:
        known = self._queue()
        return {job: known.get(job, GONE) for job in jobs}

    def _queue(self) -> dict[str, str]:
        """The state of every job of this user's that is in Slurm's queue.

        Raises:
            BadInput: if Slurm does not answer.
        """
        command = ["squeue", "--me", "--noheader", "--array", "--states=all", "--format=%i %T"]
        try:
            done = subprocess.run(command, capture_output=True, errors="replace", timeout=SECONDS, check=True)
        except (OSError, subprocess.SubprocessError) as error:
            said = getattr(error, "stderr", "") or str(error)
            raise BadInput(f"Slurm does not answer: {' '.join(str(said).split())}") from error
        words = [line.split() for line in done.stdout.splitlines()]
        return {job: _of_slurm(word) for job, word in words}

    def cancel(self, jobs: Sequence[str]) -> None:
        if jobs:
            subprocess.run(["scancel", *jobs], capture_output=True, timeout=SECONDS, check=False)


def _of_slurm(word: str) -> str:
    return GONE if word in ENDED else RUNNING if word in BEGUN else WAITING


class Local:
    """This machine: `at_once` jobs at a time, or one on each of some GPUs."""

    name = LOCAL

    def __init__(self, folder: Path, asked: Mapping[str, Any], at_once: int, gpus: Sequence[int]) -> None:
        self._gpus = list(gpus)
        self.most = len(gpus) or at_once or 1
        self._executor = _made(LOCAL, folder, {"timeout_min": 24 * 60, "tasks_per_node": 1, **asked})
        self._on: dict[str, str] = {}  # job that goes on -> what it sees of GPUs
        self._jobs: dict[str, Any] = {}

    def submit(self, jobs: Sequence[Job]) -> list[str]:
        names = []
        for job in jobs:
            if self._gpus:
                free = next(gpu for gpu in self._gpus if str(gpu) not in self._on.values())
                self._executor._executor.update_parameters(gpus_per_node=1, visible_gpus=(free,))
            submitted = self._executor.submit(job)
            if self._gpus:
                self._on[submitted.job_id] = str(free)
            self._jobs[submitted.job_id] = submitted
            names.append(submitted.job_id)
        return names

    def states(self, jobs: Sequence[str]) -> dict[str, str]:
        states = {job: RUNNING if self._lives(job) else GONE for job in jobs}
        for job, state in states.items():
            if state == GONE:
                self._on.pop(job, None)
            elif job not in self._on:  # of an earlier run, which keeps its GPU
                self._on[job] = _visible(job)
        return states

    def _lives(self, job: str) -> bool:
        """Whether a job goes on: of another run of the sweep, whether its process is still submitit's."""
        if job in self._jobs:
            return self._jobs[job].state == "RUNNING"
        import psutil

        try:
            return "submitit.local._local" in psutil.Process(int(job)).cmdline()
        except (psutil.Error, ValueError):
            return False

    def cancel(self, jobs: Sequence[str]) -> None:
        for job in jobs:
            if self._lives(job):  # of an earlier run too: this is how submitit cancels
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(job), signal.SIGINT)


def _visible(job: str) -> str:
    """The GPUs that a job on this machine sees, as its process was started; empty where that cannot be read."""
    import psutil

    try:
        return psutil.Process(int(job)).environ().get("CUDA_VISIBLE_DEVICES", "")
    except psutil.Error:
        return ""
