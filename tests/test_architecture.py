"""The shape of the house: directions of imports, no circles, short files, tests that mirror the packages.

An import inside a function is an arrow like any other; one under `if TYPE_CHECKING` is none. Only what the source text
names is seen: a module that is imported by a computed name is no arrow.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MOST_LINES = 400
Arrow = tuple[str, str]  # importing module, imported module

WITHOUT_A_MODULE = {
    "tests/bench/fuzz/test_files.py": "all readers of files",
    "tests/bench/fuzz/test_options.py": "all commands",
    "tests/overlock/contmix/test_backends.py": "every backend of ContMix against the definition",
    "tests/overlock/test_adapters.py": "adapters of another library on a whole model",
    "tests/overlock/test_contract.py": "names, shapes and counts of the released models",
    "tests/overlock/test_neon.py": "the C kernels cross-compiled, in an emulator",
    "tests/overlock/test_forward.py": "outputs of whole models",
    "tests/overlock/test_timm_conventions.py": "what timm expects of every model",
    "tests/baselines/test_registered.py": "what timm expects of every baseline",
    "tests/baselines/test_released.py": "the released file of every baseline",
    "tests/bench/accuracy/test_classes.py": "checkpoints of any number of classes, from training to top-1",
    "tests/bench/accuracy/test_digits.py": "from images to top-1, end to end",
    "tests/bench/accuracy/test_timm.py": "top-1 beside timm's own evaluation",
    "tests/bench/accuracy/test_top1.py": "the command bench.top1, on this folder's image trees",
    "tests/bench/asv_benchmarks/test_asv.py": "the whole folder, as asv sees it",
    "tests/bench/cluster/test_slurm.py": "sweeps on a real Slurm",
    "tests/bench/dense/test_commands.py": "the commands of dense tasks",
    "tests/bench/dense/test_compare.py": "dense tasks in bench.compare",
    "tests/bench/dense/test_hugging_face.py": "heads beside those of another library",
    "tests/bench/dense/test_models.py": "whole detectors and segmenters",
    "tests/bench/dense/test_overfit.py": "training, end to end",
    "tests/bench/dense/test_parity.py": "heads beside reference outputs",
    "tests/bench/gates/test_other_project.py": "gates on a project in a repository of its own",
    "tests/bench/gates/test_planted.py": "planted faults, caught by the gates",
    "tests/bench/reporting/test_browser.py": "the page, in a browser",
    "tests/test_architecture.py": "the source text itself",
    "tests/test_aggregation.py": "a side of the speed table",
    "tests/test_every_model.py": "every registered model",
    "tests/test_speed_table.py": "the speed table of tests/benchmarks",
    "tests/test_workflows.py": "what runs on GitHub",
    "tests/test_unfold.py": "the yardstick of the benchmarks",
}
"""Test files that mirror no single module, and what each is about."""


@cache
def modules() -> dict[str, Path]:
    """Name -> file of every module of the packages; of a package, its `__init__.py`."""
    found = {}
    for package in ("overlock", "baselines", "bench"):
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """Everything inside `node` except what stands under `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from statements(child)


def imported(path: Path) -> set[str]:
    """The modules that a file imports, in full: `from a import b` is `a.b` where that is a module of ours."""
    found = set()
    for node in statements(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, f"{path}: a relative import"
            assert not node.level, f"{path}: a relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in modules() else node.module for name in names}
    return found


@cache
def arrows() -> set[Arrow]:
    """Every import among the packages."""
    found = {(name, other) for name, path in modules().items() for other in imported(path)}
    return {(name, other) for name, other in found if other in modules() and other != name}


def room(module: str) -> str:
    """The folder of a module. The files directly in `bench` are two rooms, commands on top of libraries; those directly
    in another package are judged one by one."""
    path = modules()[module].relative_to(ROOT)
    if len(path.parts) > 2:
        return str(path.parent)
    if path.parts[0] != "bench":
        return module
    is_command = 'if __name__ == "__main__":' in modules()[module].read_text()
    return "commands of bench" if is_command else "libraries of bench"


def circles(edges: set[Arrow]) -> list[list[str]]:
    """Groups of nodes of which each can be reached from each other one."""
    after: dict[str, set[str]] = {}
    for a, b in edges:
        after.setdefault(a, set()).add(b)
        after.setdefault(b, set())

    def reached(start: str) -> frozenset[str]:
        seen: set[str] = set()
        front = [start]
        while front:
            new = after[front.pop()] - seen
            seen |= new
            front += new
        return frozenset(seen)

    reach = {node: reached(node) for node in after}
    groups = {frozenset(b for b in reach[a] if a in reach[b]) for a in after}
    return sorted(sorted(group) for group in groups if group)


def between_rooms(edges: set[Arrow]) -> set[Arrow]:
    return {(room(a), room(b)) for a, b in edges if room(a) != room(b)}


def test_imports_go_in_one_direction() -> None:
    forbidden = {
        "overlock": ("baselines", "bench", "tests"),
        "baselines": ("bench", "tests", "overlock"),
        "bench": ("tests",),
    }
    wrong = []
    for name, path in modules().items():
        package = name.split(".")[0]
        for other in imported(path):
            allowed = package == "baselines" and other.startswith(("overlock.layers", "overlock.checkpoints."))
            if other.split(".")[0] in forbidden[package] and not allowed:
                wrong.append(f"{name} imports {other}")
    assert not wrong


def test_no_circle_of_files() -> None:
    assert circles(arrows()) == []


def test_no_circle_of_folders() -> None:
    assert circles(between_rooms(arrows())) == []


@pytest.mark.parametrize("circle", [{"ab", "ba"}, {"ab", "bc", "ca"}])
def test_a_circle_is_seen(circle: set[str]) -> None:
    edges = {(edge[0], edge[1]) for edge in circle | {"xa", "cy"}}
    assert circles(edges) == [sorted({edge[0] for edge in circle})]


def test_no_file_is_long() -> None:
    lengths = {path: len(path.read_text().splitlines()) for top in ("overlock", "baselines", "bench", "tests")
               for path in (ROOT / top).rglob("*.py")}  # fmt: skip
    assert {str(path): n for path, n in lengths.items() if n > MOST_LINES} == {}


def test_tests_mirror_the_packages() -> None:
    files = [path.relative_to(ROOT) for path in (ROOT / "tests").rglob("test_*.py")]
    files = [path for path in files if path.parts[1] != "benchmarks"]
    stray = set()
    for path in files:
        module = ROOT.joinpath(*path.parts[1:-1], path.name.removeprefix("test_"))
        if not module.exists() and not module.with_suffix("").is_dir():
            stray.add(path.as_posix())
    assert stray == set(WITHOUT_A_MODULE)


def test_what_other_programs_print_may_be_any_bytes() -> None:
    """Of subprocesses' output nobody knows the encoding: `errors=` gives text, where `text=True` raises."""
    strict = [
        name for name, path in modules().items() if re.search(r"\b(text|universal_newlines)=True", path.read_text())
    ]
    assert not strict
