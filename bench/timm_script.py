"""`python -m bench.timm_script validate.py --model overlock_t ...`: timm's scripts, unchanged, on the suite's models.

timm's scripts find a model by its name once the package that registers it is imported; of them `train.py` alone can be
told to import one (`--device-modules overlock baselines`). Under torchrun: torchrun ... -m bench.timm_script train.py
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import cli
from bench.plugins import FAMILIES


def parser() -> cli.Parser:
    p = cli.Parser(
        prog="bench.timm_script",
        usage="python -m bench.timm_script SCRIPT [ARGUMENT ...]",
        description="Run a script of timm's (train.py, validate.py, benchmark.py, onnx_export.py, ...) unchanged, with "
        "all of the suite's models registered.",
    )
    p.add_argument("script", type=Path, metavar="SCRIPT", help="the script's file, of timm's repository")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if argv is None else argv)
    args = parser().parse_args(given[:1])
    if not args.script.is_file():
        parser().error(f"there is no script {args.script}: give a file of timm's repository, train.py say")
    for family in FAMILIES.values():
        family.register()
    before = sys.argv, list(sys.path)
    sys.argv = [str(args.script), *given[1:]]
    sys.path.insert(0, str(args.script.resolve().parent))  # as Python has it for a script that it runs
    try:
        runpy.run_path(str(args.script), run_name="__main__")
    finally:
        sys.argv, sys.path = before
    return cli.OK


if __name__ == "__main__":
    sys.exit(main())  # a script's errors are its own, with their tracebacks
