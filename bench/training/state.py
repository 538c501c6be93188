"""The state of a training on disk: written as a whole, and refused where it is of another run."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from bench.cli import BadInput


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


def restore(
    path: Path,
    about: Mapping[str, str],
    device: str,
    mend: str,
    take: Callable[[dict[str, Any]], None] = lambda content: None,
) -> bool:
    """Have `take` take what `save` wrote there; returns whether there is such a file.

    Args:
        about: what the weights depend on; the content has it as `meta.about`.
        mend: what to do where the file cannot be used.

    Raises:
        BadInput: if it is no such state, is damaged, or is of a run whose `about` differs.
    """
    if not path.exists():
        return False
    try:
        content: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        known = dict(content["meta"]["about"])
    except Exception as error:  # what kind it is depends on what the file is instead
        raise BadInput(f"{path} is there and is no state of this training: {mend}") from error
    differ = [name for name in {**known, **about} if known.get(name) != about.get(name)]
    if differ:
        raise BadInput(f"{path} is of a run with other {', '.join(sorted(map(str, differ)))}: {mend}")
    try:
        take(content)
    except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        why = textwrap.shorten(f"{type(error).__name__}: {error}", 200)
        raise BadInput(f"{path} is damaged ({why}): {mend}") from error
    return True
