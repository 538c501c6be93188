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
from bench.files import read_text

API_VERSION = 1
FILE = ".asv-machine.json"


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser(prog="bench.asv_machine", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--file", type=Path, help=f"default: ~/{FILE}")
    args: argparse.Namespace = parser.parse_args(argv)
    file = args.file or _usual()
    known = read(file)
    from bench.machine.device import choose_device
    from bench.machine.environment import collect

    described = description(collect(choose_device("auto"), 1))
    cli.write_whole(
        file, json.dumps(known | {described["machine"]: described, "version": API_VERSION}, indent=4) + "\n"
    )
    print(f"{file}: {described['machine']}", file=sys.stderr)
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


def _usual() -> Path:
    try:
        return Path.home() / FILE
    except RuntimeError as error:
        raise BadInput("--file: there is no home folder to have asv's file of machines in: name the file") from error


def read(path: Path) -> dict[str, Any]:
    """asv's file of machines, nothing where there is none.

    Raises:
        BadInput: if the file there is another, or cannot be written.
    """
    cli.check_writable(path)
    text = read_text(path, "give asv's file of machines") if path.exists() else "{}"
    try:
        known: Any = json.loads(text)
        if not all(isinstance(value, dict) or name == "version" for name, value in known.items()):
            raise ValueError("a machine is no object")
    except (AttributeError, ValueError, RecursionError) as error:
        raise BadInput(f"{path} is not asv's file of machines ({error}): give --file another") from error
    machines: dict[str, Any] = known
    return machines


if __name__ == "__main__":
    cli.run("asv_machine", main)
