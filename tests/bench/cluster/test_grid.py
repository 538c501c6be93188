"""A grid's cells: their names and commands, and what is refused before anything is submitted."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from bench.cli import BadInput
from bench.cluster import cell
from bench.cluster.grid import COMMANDS, own, read

GRID = """
[options]
metrics = ["throughput", "memory"]
baseline = "ConvNeXt-T"
quick = true
[grid]
models = ["overlock_[xt]*", "convnext_t"]
resolutions = [224, "256x320"]
dtypes = ["float32", "bf16"]
[executor]
timeout_min = 30
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "grid.toml"
    path.write_text(text)
    return path


def test_every_combination_is_a_cell_with_the_baseline_beside(tmp_path: Path) -> None:
    grid = read(written(tmp_path, GRID))
    assert len(grid.cells) == 3 * 2 * 2
    first, last = grid.cells[0].words, grid.cells[-1].words
    assert " ".join(first) == (
        "--metrics throughput memory --baseline ConvNeXt-T --quick --models overlock_xt ConvNeXt-T "
        "--resolutions 224 --dtypes float32"
    )
    assert " ".join(last).endswith("--models convnext_t --resolutions 256x320 --dtypes bf16")
    assert len({cell.name for cell in grid.cells}) == 12
    assert grid.executor == {"timeout_min": 30}


def test_a_cell_keeps_its_name_when_the_grid_grows(tmp_path: Path) -> None:
    before = {cell.name for cell in read(written(tmp_path, GRID)).cells}
    after = {cell.name for cell in read(written(tmp_path, GRID.replace('"256x320"', '"256x320", 384'))).cells}
    assert before < after


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"bf16"', '"fp8"', "invalid choice: 'fp8'"),
        ("quick = true", "quickly = true", "unrecognized arguments: --quickly"),
        ("[options]", 'command = "gate"\n[options]', "give one of compare"),
        ("[executor]", "[excutor]", "excutor is not known"),
        ('models = ["overlock_[xt]*", "convnext_t"]', "models = []", "no values"),
        ('models = ["overlock_[xt]*", "convnext_t"]', 'models = ["resnet*"]', "no model of the suite matches"),
        ("quick = true", "save = true", "the sweep itself gives --save"),
        ("[executor]", "[torchrun]\nnproc-per-node = 2\n[executor]", "runs in one process"),
        ("quick = true", "sav = true", "the sweep itself gives --sav"),
        ("quick = true", "help = true", "it asks for help"),
        ("quick = true", "quick = {a = 1}", "give text, numbers"),
        ("quick = true", 'weights = "a=\\u0000"', "give text, numbers"),
        ("quick = true", "rounds = " + "9" * 5000, "grid.toml"),
        ("quick = true", "rounds = " + "[" * 100_000, "grid.toml"),
        ("[grid]", "[grid", "grid.toml"),
    ],
)
def test_what_cannot_be_meant_is_refused(old: str, new: str, words: str, tmp_path: Path) -> None:
    assert old in GRID
    with pytest.raises(BadInput) as refused:
        read(written(tmp_path, GRID.replace(old, new)))
    assert words in str(refused.value)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_can_be_swept(command: str, tmp_path: Path) -> None:
    models = "model" if command.startswith("train_") else "models"
    weights = "" if command == "compare" else 'data = "/data"\nweights = "random"'
    text = f'command = "{command}"\n[options]\n{weights}\n[grid]\n{models} = ["overlock_t"]\n'
    (cell,) = read(written(tmp_path, text)).cells
    parser = importlib.import_module(f"bench.{command}").parser()
    given = parser.parse_args([*cell.arguments(Path("/x")), *own(command, Path("/x"))])
    assert Path("/x") in (given.resume if command == "compare" else given.output).parents


def test_patterns_are_models_of_trainings_too(tmp_path: Path) -> None:
    text = 'command = "train_imagenet"\n[options]\ndata = "/d"\n[grid]\nmodel = ["overlock_[xt]*"]\nlr = [1e-3, 2e-3]\n'
    grid = read(written(tmp_path, text + "[torchrun]\nnproc-per-node = 2\n"))
    assert [cell.words[-3::2] for cell in grid.cells] == [
        (model, lr) for model in ("overlock_xt", "overlock_t") for lr in ("0.001", "0.002")
    ]


def test_the_folder_of_a_cell_has_a_place_in_its_options(tmp_path: Path) -> None:
    text = 'command = "top1"\n[options]\ndata = "/data"\nresults = "{cell}/kept"\n[grid]\nmodels = ["overlock_t"]\n'
    (cell,) = read(written(tmp_path, text)).cells
    assert "/x/kept" in cell.arguments(Path("/x"))


@pytest.mark.parametrize(("code", "word"), [(0, "done"), (1, "failed"), (2, "failed"), (3, "done"), (143, "stopped")])
def test_a_cell_stands_by_its_exit_code(code: int, word: str, tmp_path: Path) -> None:
    """A traceback ends with 1, as torchrun does when one of its processes fails: nothing is done then."""
    cell.end(tmp_path, {"code": code})
    assert cell.state(tmp_path).word == word
