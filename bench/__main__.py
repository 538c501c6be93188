"""`python -m bench`, or `overlock-bench`: the commands, and `python -m bench compare ...` to run one.

Importing this imports no torch.
"""

from __future__ import annotations

import ast
import difflib
import re
import runpy
import sys
from collections.abc import Sequence

from bench import cli
from bench.cli import BadInput
from bench.paths import PACKAGE, REPOSITORY

EPILOG = "Each has --help. `overlock-bench NAME ...` and `python -m bench.NAME ...` are the same."


def commands() -> dict[str, str]:
    """Name -> what it is for, of every command: the first line of its file's docstring, which is not imported."""
    found = {}
    for path in sorted(PACKAGE.glob("*.py")):
        name, opening = path.stem, f"`python -m bench.{path.stem}"
        words = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        if words.startswith(opening):
            found[name] = " ".join(words.partition("\n\n")[0].partition("`: ")[2].split())
    return found


def version() -> str:
    """The one that stands in `overlock`, which is not imported."""
    (found,) = re.findall(r'^__version__ = "(.+)"', (REPOSITORY / "overlock" / "__init__.py").read_text("utf-8"), re.M)
    return str(found)


def main(argv: Sequence[str] | None = None) -> int:
    """List the commands, or run one: its exit code.

    Raises:
        BadInput: for a command that there is not.
    """
    name, *arguments = [*(sys.argv[1:] if argv is None else argv), ""]
    known = commands()
    if name in ("", "-h", "--help"):
        width = max(map(len, known))
        listed = "\n".join(f"  {name:{width}}  {words}" for name, words in known.items())
        print(f"usage: overlock-bench [--version] [--list] COMMAND ...\n\n{listed}\n\n{EPILOG}")
        return cli.OK
    if name == "--version":
        print(f"overlock-bench {version()}")
        return cli.OK
    if name == "--list":
        name = "list"
    name = name.removeprefix("bench.").replace("-", "_")
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise BadInput(
            f"no command {name!r}: {f'did you mean {near[0]}?' if near else 'give one of'} {', '.join(known)}"
        )
    sys.argv = [f"bench.{name}", *arguments[:-1]]
    runpy.run_module(f"bench.{name}", run_name="__main__", alter_sys=True)
    raise AssertionError(f"bench.{name} ended without an exit code")


def script() -> None:
    """The console script."""
    cli.run("", main)


if __name__ == "__main__":
    script()
