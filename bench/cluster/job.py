"""What a job does: runs a cell's command, and writes down how it began and ended. Imports no torch.

A job that is stopped (preempted, out of time, its node gone) is begun again, by Slurm, by submitit or by the sweep; the
command goes on from what it kept.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.cli import last_line
from bench.cluster import cell
from bench.machine.environment import now

TAIL = 400
"""Characters of the command's last words that are kept with how it ended."""
STOP_SECONDS = 30
PORT, PORTS = 20_000, 20_000
"""Where the processes of a job on several nodes find each other: a port that follows from the job's number."""


@dataclass(frozen=True)
class Job:
    """The work of one job; submitit pickles it, and calls it where the job runs.

    Args:
        folder: the cell's.
        module: the command's, `bench.compare`, say.
        arguments: behind it.
        torchrun: the processes of a node, where there are several, and further options of torchrun.
    """

    folder: str
    module: str
    arguments: tuple[str, ...]
    torchrun: Mapping[str, Any]

    def __call__(self) -> int:
        """Run the command to its end; returns its exit code."""
        from submitit import JobEnvironment

        where = JobEnvironment()
        first = where.global_rank == 0
        folder = Path(self.folder).resolve()
        begun = time.monotonic()
        if first:
            cell.begin(folder, {"job": where.job_id, "host": socket.gethostname(), "time": now()})
        code = run([*self._launcher(where), *self.arguments], folder / cell.LOG)
        if first:
            words = {"code": code, "seconds": round(time.monotonic() - begun, 1), "host": socket.gethostname()}
            cell.end(folder, {**words, "words": tail(folder / cell.LOG) if code else ""})
        return code

    def checkpoint(self) -> Any:
        """What submitit runs in the place of a job that it had to stop: the same, which goes on."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _launcher(self, where: Any) -> list[str]:
        """The command line up to the command's own arguments."""
        if not self.torchrun:
            return [sys.executable, "-m", self.module]
        words = [sys.executable, "-m", "torch.distributed.run", f"--nnodes={where.num_nodes}"]
        if where.num_nodes > 1:
            port = PORT + sum(map(ord, where.job_id)) * 131 % PORTS
            words += [
                f"--node-rank={where.node}",
                f"--master-addr={address(where.hostnames[0])}",
                f"--master-port={port}",
            ]
        else:
            words.append("--standalone")
        words += [f"--{name}={value}" for name, value in self.torchrun.items()]
        return [*words, "-m", self.module]


def run(command: Sequence[str], log: Path) -> int:
    """A command's exit code, its words added to a log; whatever ends this ends the command too."""
    with log.open("ab") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=clean(os.environ))
        try:
            return process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def address(node: str) -> str:
    """Where a node of Slurm's is reached, which its name need not be; the name itself, where Slurm does not say."""
    command = ["scontrol", "--oneliner", "show", "node", node]
    try:
        said = subprocess.run(command, capture_output=True, errors="replace", timeout=STOP_SECONDS, check=False).stdout
    except (OSError, subprocess.SubprocessError):
        return node
    return next((word.partition("=")[2] for word in said.split() if word.startswith("NodeAddr=")), node)


def clean(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables without those that would have a process take itself for one of several of torchrun's."""
    return {name: value for name, value in environment.items() if name not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}


def tail(log: Path) -> str:
    """The last line that the command said."""
    try:
        return last_line(log.read_text(encoding="utf-8", errors="replace"), "")[-TAIL:]
    except OSError:
        return ""
