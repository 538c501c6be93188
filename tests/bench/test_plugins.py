"""Families of other packages: by a real entry point, in this process and in a fresh environment."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from bench import plugins
from bench.accuracy.recipes import recipe_for
from bench.cli import BadInput
from bench.families import FAMILIES as OWN
from bench.models import MODELS, Entry, chosen
from bench.paths import REPOSITORY

EXAMPLE = Path(__file__).parent / "example_family"


def installed(folder: Path, value: str, name: str = "example") -> None:
    """What pip leaves of a package: its entry points."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{plugins.GROUP}]\n{name} = {value}\n")


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_family_is_found_by_its_entry_point(path: Path) -> None:
    installed(path, "example_family:Example")
    (family,) = plugins.registered()
    assert (family.name, [family.model(size) for size in family.sizes]) == ("Example", ["example_t", "example_s"])
    entry = Entry("example_s", family, family.resolution("s"))
    assert str(recipe_for(entry)).startswith("160 center crop_pct 0.9 bilinear"), "its own network's configuration"


BROKEN = {
    "nowhere:Family": "No module named 'nowhere'",
    "example_family:Nothing": "has no attribute 'Nothing'",
    "bench.models:MODELS": "is no bench.families.Family",
    "bench.families:OverLoCK": "OverLoCK is taken",
}


@pytest.mark.parametrize("value", BROKEN)
def test_one_that_cannot_be_had_is_told_and_left_out(value: str, path: Path) -> None:
    installed(path, value, "broken")
    installed(path, "example_family:Example")
    with pytest.warns(UserWarning, match=f"broken = {value}: .*{BROKEN[value]}.*: left out"):
        assert [family.name for family in plugins.registered()] == ["Example"]


RAISING = {
    "import sys; sys.exit(3)": "SystemExit: 3",
    "def (": "SyntaxError",
    "Family = lambda: 3": "is no bench.families.Family",
    "class Family:\n    def __init__(self, a): pass": "TypeError",
    **{
        f"from example_family import Example\nclass Family(Example):\n    {fact} = {value}": f"its {fact}"
        for fact, value in (("name", "3"), ("sizes", "None"), ("sizes", "'ab'"), ("sizes", "(1, 2)"),
                            ("sizes", "('a', 'a')"), ("figures", "'f.csv'"), ("structure", "()"), ("network", "None"))
    },
}  # fmt: skip


@pytest.mark.parametrize("text", RAISING)
def test_a_package_that_fails_in_any_way_is_left_out(text: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A class that is wrong in a fact that every command reads would end them all, also for models of the suite."""
    monkeypatch.delitem(sys.modules, "odd_family", raising=False)
    (path / "odd_family.py").write_text(text)
    installed(path, "odd_family:Family", "odd")
    with pytest.warns(UserWarning, match=f"odd = odd_family:Family: .*{RAISING[text]}.*: left out"):
        assert not list(plugins.registered())


@pytest.mark.parametrize("network", ["nowhere", "example_family.exits", "bench.paths"])
def test_networks_that_cannot_be_had_are_bad_input(network: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "example_family.exits", None)  # its import raises
    installed(path, "example_family:Example")
    (family,) = plugins.registered()
    family.network = network
    for call in (lambda: family.configuration("example_none"), lambda: recipe_for(Entry("example_none", family))):
        with pytest.raises(BadInput, match=rf"{network} (cannot be imported|registers no example_none).*its package"):
            call()


def test_all_are_the_suites_own() -> None:
    assert {entry.family.name for entry in chosen(["all"])} == {name for name in OWN if OWN[name].sizes}
    assert {entry.name for entry in chosen(["*"])} == set(MODELS)


@pytest.mark.slow
def test_in_a_fresh_environment(tmp_path: Path) -> None:
    """The suite and the example installed by pip, away from any checkout: listed, counted, with published figures."""
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # a checkout's

    def run(*command: str) -> str:
        done = subprocess.run(
            [str(python), *command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    # torch and what else the suite needs come from here: they are not what is tried
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    (site / "zz_dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    run("-m", "pip", "install", "-q", "--no-deps", str(REPOSITORY), str(EXAMPLE))
    assert str(site) in run("-c", "import bench; print(bench.__file__)")
    listed = run("-m", "bench.list", "--models", "example_*", "--format", "csv")
    assert [line.split(",")[:2] for line in listed.splitlines()[1:3]] == [
        ["Example", "example_t"],
        ["Example", "example_s"],
    ]
    assert "160 center crop_pct 0.9 bilinear" in listed
    assert "61.5" in listed
    counted = run(
        "-m", "bench.compare", "--models", "example_t", "overlock_xt", "--metrics", "params", "--format", "csv"
    )
    assert "20104" in counted
