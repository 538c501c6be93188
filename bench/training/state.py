"""The state of a training on disk: written as a whole, and refused where it is of another run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bench.cli import BadInput

MEND = "give --output another folder"


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content`; a kill leaves the file before. The caller alone writes there (`bench.files.alone`).

    Raises:
        BadInput: if it cannot be written.
    """
    partial = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(dict(content), partial)
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        raise BadInput(f"cannot write {path}: {error}") from error


def read(path: Path, about: Mapping[str, str], device: str) -> dict[str, Any] | None:
    """What `save` wrote there; None where there is no file.

    Raises:
        BadInput: if it is no such state, or of a run whose `about` differs.
    """
    if not path.exists():
        return None
    try:
        content: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        known = dict(content["meta"]["about"])
    except Exception as error:  # what kind it is depends on what the file is instead
        raise BadInput(f"{path} is there and is no state of this training: {MEND}") from error
    differ = [name for name in {**known, **about} if known.get(name) != about.get(name)]
    if differ:
        raise BadInput(f"{path} is of a run with other {', '.join(sorted(map(str, differ)))}: {MEND}")
    return content
