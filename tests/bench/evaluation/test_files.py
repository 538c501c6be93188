"""What a folder holds: images of any case, folders without images, and what is left out, by name."""

from __future__ import annotations

from pathlib import Path

from bench.evaluation.files import HIDDEN, LOOP, NO_IMAGE, described, listing


def test_everything_is_listed_or_left_out_by_name(tmp_path: Path) -> None:
    for name in ("ant/1.JPG", "ant/2.jpeg", "ant/._1.JPG", "ant/notes.txt", ".ipynb_checkpoints/x.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "bee").mkdir()
    (tmp_path / "bee" / "all").symlink_to(tmp_path)
    (tmp_path / "bee" / "itself").symlink_to(tmp_path / "bee" / "itself")
    (tmp_path / "cat").symlink_to(tmp_path / "ant")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    below = listing(tmp_path)
    assert below.folders == ["ant", "bee", "cat"]
    assert list(below.images()) == ["ant/1.JPG", "ant/2.jpeg", "cat/1.JPG", "cat/2.jpeg", "gone.png"]
    assert below.left_out == {
        HIDDEN: [".ipynb_checkpoints", "ant/._1.JPG", "cat/._1.JPG"],
        NO_IMAGE: ["ant/notes.txt", "bee/itself", "cat/notes.txt"],
        LOOP: ["bee/all"],
    }
    assert described(below.left_out)[1] == f"left out, {LOOP}: 1 (bee/all)"
