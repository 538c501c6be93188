"""`python -m bench.asv_machine`: describe this machine to asv, once: processor, GPU, driver and torch.

asv stores the description with every result, and its web page can filter by each key.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import cli
from bench.cli import BadInput

API_VERSION = 1
FILE = ".asv-machine.json"


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser(prog="bench.asv_machine", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--file", type=Path, default=Path.home() / FILE, help=f"default: ~/{FILE}")
    args: argparse.Namespace = parser.parse_args(argv)
    from bench.machine.device import choose_device
    from bench.machine.environment import collect

    described = description(collect(choose_device("auto"), 1))
    write(args.file, described)
    print(f"{args.file}: {described['machine']}", file=sys.stderr)
    return cli.OK


def description(environment: dict[str, Any]) -> dict[str, str]:
    """asv's own keys, and what bears on a network's speed; named as the folders of `results/` are.

    asv takes a file's only machine for this one, whatever its name; of several, `--machine` names it.
    """
    on_gpu = environment["device"].startswith("cuda")
    return {
        "machine": environment["machine"],
        "os": environment["os"],
        "arch": platform.machine(),
        "cpu": environment["cpu"],
        "num_cpu": str(environment["logical_cpus"]),
        "ram": str(environment["memory_bytes"] // 1024),
        "gpu": environment["device_name"] if on_gpu else "",
        "driver": environment["driver"],
        "torch": environment["libraries"]["torch"],
    }


def write(path: Path, described: dict[str, str]) -> None:
    """Add the description to asv's file of machines.

    Raises:
        BadInput: if the file there is not asv's, or cannot be written.
    """
    try:
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        known |= {described["machine"]: described, "version": API_VERSION}
        path.write_text(json.dumps(known, indent=4) + "\n", encoding="utf-8")
    except (OSError, ValueError, TypeError) as error:
        raise BadInput(f"{path} is not asv's file of machines, or cannot be written: {error}") from error


if __name__ == "__main__":
    cli.run("asv_machine", main)
