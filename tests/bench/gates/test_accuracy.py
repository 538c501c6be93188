"""The accuracy gate on predictions written as bench.top1 writes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench import gate
from bench.accuracy.predictions import EVALUATED, NO_CLASS, NOT_FINITE, ROW, finish, open_store
from bench.cli import BadInput

IMAGES = 50_000
HEADER = {
    "model": "overlock_t", "form": "deploy", "resolution": "224", "recipe": {}, "weights": "w", "dataset": "imagenet",
    "images": IMAGES, "manifest": "m", "classes": None, "dtype": "float32", "batch": 128, "torch": "2.15",
}  # fmt: skip


def predictions(folder: Path, wrong: int, lucky: int = 0, status: int = EVALUATED, **header: object) -> Path:
    """40,000 images right, less the first `wrong` of them, and `lucky` ones more."""
    rows = np.zeros(IMAGES, ROW)
    rows["image"] = np.arange(IMAGES)
    rows["rank"][40_000:] = 1
    rows["rank"][:wrong] = 1
    rows["rank"][IMAGES - lucky :] = 0
    rows["top5"] = NO_CLASS
    rows["top5"][:, 0] = rows["rank"]
    rows["status"][0] = status
    store = open_store(folder, {**HEADER, **header}, IMAGES, IMAGES)
    finish(store, {0: rows})
    store.close()
    return folder


@pytest.mark.parametrize(
    ("wrong", "lucky", "code", "verdict"),
    [
        (0, 0, 0, "OK"),
        (50, 50, 0, "OK"),  # 0.2 % of predictions changed, none lost
        (100, 0, 1, "REGRESSION"),  # 0.2 points
        (20, 0, 3, "UNDECIDED"),  # 0.04 points
        (0, 400, 0, "OK"),
    ],
)
def test_verdicts(
    wrong: int, lucky: int, code: int, verdict: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = predictions(tmp_path / "before", 0), predictions(tmp_path / "after", wrong, lucky, torch="2.16")
    assert gate.main(["--accuracy", str(after), "--against", str(before), "--all-rows"]) == code
    assert verdict in capsys.readouterr().out


@pytest.mark.parametrize("broken", [("before",), ("after",), ("before", "after")], ids=" ".join)
def test_logits_that_are_not_finite_are_not_judged(
    broken: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On either side; on both they would be equal."""
    before, after = (
        predictions(tmp_path / name, 0, status=NOT_FINITE if name in broken else EVALUATED)
        for name in ("before", "after")
    )
    assert gate.main(["--accuracy", str(after), "--against", str(before)]) == 2
    assert "not finite" in capsys.readouterr().out


def test_other_images_are_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = predictions(tmp_path / "before", 0), predictions(tmp_path / "after", 0, manifest="n")
    assert gate.main(["--accuracy", str(after), "--against", str(before)]) == 2
    assert "manifest n against m" in capsys.readouterr().out


def test_a_model_that_was_never_evaluated_is_invalid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = predictions(tmp_path / "before", 0), predictions(tmp_path / "after", 0, model="convnext_t")
    assert gate.main(["--accuracy", str(after), "--against", str(before)]) == 2
    assert "nothing recorded" in capsys.readouterr().out
    (tmp_path / "none").mkdir()
    with pytest.raises(BadInput, match="no predictions"):
        gate.main(["--accuracy", str(tmp_path / "none"), "--against", str(before)])
